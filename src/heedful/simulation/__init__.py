"""The miniature world and its simulated labelers: the whole loop with a known truth, in minutes."""
