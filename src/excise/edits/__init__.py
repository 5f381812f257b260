"""The edit: what is removed from which writer, and its three equal realisations."""
