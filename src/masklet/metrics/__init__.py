"""Scores with update, merge and compute; state is counts, each docstring names the published definition."""
