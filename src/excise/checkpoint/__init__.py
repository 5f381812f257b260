"""Checkpoints on disk: read as bytes under names, rewritten file by file in constant memory, verified."""
