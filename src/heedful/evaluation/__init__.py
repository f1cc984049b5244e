"""Measures of an aligned model, each with its interval."""
