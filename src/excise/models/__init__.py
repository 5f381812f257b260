"""Models: load them, find what writes to the residual stream, prove that all of it was found."""
