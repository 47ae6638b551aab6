"""Searches that sample whole architectures."""
