"""Devices: placement of tensors, memory, precision of sums, prepacked weights."""
