"""Explanations of searches that descend a gradient, from their trained supernets."""
