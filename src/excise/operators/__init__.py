"""Directions and operators (u, v) from statistics of activations. Pure functions."""
