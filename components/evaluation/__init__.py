"""Ranks, metrics and scorecards."""
