"""One visible loop and what it needs: optimizer, schedule, averaging, checkpoints, logs, processes."""
