"""`reproduce.json`: what a saved model was made from, and whether one made again is the same."""
