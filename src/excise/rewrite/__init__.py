"""Weights on disk rewritten: every format, checked."""
