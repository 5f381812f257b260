"""One run, from a model's name to an edit that was measured: stages, run directory, record."""
