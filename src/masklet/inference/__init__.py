"""Trained models at work: pictures of any size, tiles, flips and scales, videos, files, scores on data."""
