"""Batched sampling over token ids, and what PPO computes from it."""
