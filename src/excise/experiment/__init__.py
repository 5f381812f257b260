"""A model and prompts: statistics, operators, scores."""
