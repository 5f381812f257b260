"""Phrases of refusals in each language, as data."""
