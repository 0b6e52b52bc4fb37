"""The cellar: pure functions on tensors and arrays; no device, file or global, randomness comes in as a Generator."""
