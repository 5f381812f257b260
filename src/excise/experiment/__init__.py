"""Experiments: a model and prompts, their statistics, operators and scores."""
