"""The labeling service: people who write, rate and rank, and the figures about their work."""
