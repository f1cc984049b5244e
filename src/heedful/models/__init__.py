"""Any Hugging Face causal LM as it is, and scalar models (reward model, value function) on its body."""
