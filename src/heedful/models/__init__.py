"""Any Hugging Face causal LM as it is; scalar models (reward model, value function) on its body."""
