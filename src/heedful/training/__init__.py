"""The three steps of InstructGPT (and pretraining before them)."""
