"""Files, locks, paths and differences between operating systems."""
