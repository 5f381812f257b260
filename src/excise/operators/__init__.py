"""Statistics of activations, and what is made of them: directions and (u, v) pairs. Pure functions."""
