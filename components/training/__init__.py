"""Frames and captions to trained parameters."""
