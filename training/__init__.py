"""The common parts of search and retraining: configuration, data, checkpoints, monitoring,
metrics."""
