"""Quantised weights: an edit changes the codes, and scales only if the grid is too small."""
