"""Compares two checkpoints: differing tensors, ranks of the changes, and the edit that explains them."""
