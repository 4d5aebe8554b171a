"""Temporary."""
from components.methods.base import build, method_class, read_settings

__all__ = ["build", "method_class", "read_settings"]
