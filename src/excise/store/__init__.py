"""A run directory: lock, journal, record, edits."""
