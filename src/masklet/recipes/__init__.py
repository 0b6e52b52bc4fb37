"""Complete training runs: one flat dataclass and one run() per way of training."""
