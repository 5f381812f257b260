"""Checkpoints on disk: their files, the names, types and shapes of their tensors, and downloads."""
