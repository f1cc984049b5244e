"""Where people's work is kept: tables, databases, and every read and write as a named function."""
