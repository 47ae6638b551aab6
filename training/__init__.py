"""What a search and a retraining share: configuration, data, checkpoints, monitoring and metrics."""
