"""Snapshot records to token batches: formats, the text template, batching."""
