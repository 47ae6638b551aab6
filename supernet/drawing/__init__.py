"""Cells and tables of weights as figures."""
