"""Task files for lm-evaluation-harness: the paper's data sets, prompts and shots."""
