"""Stands here so that pytest puts this folder on the import path, for the helpers that the tests share."""
