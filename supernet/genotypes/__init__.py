"""Architectures as values: checked, written, read, and the published ones."""
