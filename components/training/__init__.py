"""Trains a method on frames and captions."""
