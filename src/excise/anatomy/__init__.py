"""A model's decoder layers, its writers and the names of their tensors."""
