"""A run as a directory: its configuration, checkpoints, log and curves."""
