"""The edit: an operator for each writer, and its equal realisations."""
