"""Prompts from users and labelers, cleaned the way the paper does it: dedup, cap, split, PII."""
