"""Pictures of results: every function takes and gives uint8 (H, W, 3) arrays, except the report, which gives HTML."""
