"""Samplers: one file each, behind one interface, ask and tell."""
