"""What a model is made of: layers, writers, the names of their tensors."""
