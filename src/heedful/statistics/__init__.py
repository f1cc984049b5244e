"""Statistics that the labeling service and the evaluation share: pure numpy, no files."""
