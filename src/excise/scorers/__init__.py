"""Scores: refusals and KL divergence, each a function of answers or distributions alone."""
