"""Models in memory: loading, chat templates, weights, the residual stream."""
