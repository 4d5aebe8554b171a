"""Indexes of videos and answers to texts."""
