"""What each ``heed`` command does: reads files, calls the packages, writes a run directory."""
