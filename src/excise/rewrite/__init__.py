"""Writes edited checkpoints in every format, and verifies what it wrote."""
