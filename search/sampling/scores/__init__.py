"""Sources of the scores of architectures."""
