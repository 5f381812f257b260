"""Where tensors lie, what memory there is, and in what precision sums run."""
