"""`reproduce.json`: the origin of a saved model, and the comparison with a rebuilt model."""
