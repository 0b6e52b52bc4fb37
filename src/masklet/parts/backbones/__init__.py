"""Backbones promise `channels` and `strides` by level name (c1..c5) and return a dict of feature maps."""
