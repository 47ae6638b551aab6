"""Explanations from numbers alone: a whole benchmark table, or the trials of a search."""
