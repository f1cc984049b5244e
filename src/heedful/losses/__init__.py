"""The math of the three steps: pure functions on tensors, one screen each."""
