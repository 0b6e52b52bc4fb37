"""Modules that know no task: backbones, heads, context, normalisation, losses."""
