"""Explanations: why a search found its architecture, and what decides in a whole table."""
