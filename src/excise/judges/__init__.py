"""Judges: does an answer show the behaviour? Each is a function of prompts and answers as text."""
