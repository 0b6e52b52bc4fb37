"""Data sets, transforms and checks. The conventions of other formats end at this door."""
