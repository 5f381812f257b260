"""Two checkpoints compared: which tensors differ, at which rank, and whether an edit made the difference."""
