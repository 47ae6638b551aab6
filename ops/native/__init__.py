"""Cells on the CPU in C++: each pass of a cell is one call."""
