"""Sentences for the tests of the keywords judge, by language."""
