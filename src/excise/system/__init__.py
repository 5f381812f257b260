"""Files, locks, paths and text of the operating system."""
