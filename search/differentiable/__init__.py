"""Searches that descend a gradient in architecture parameters."""
