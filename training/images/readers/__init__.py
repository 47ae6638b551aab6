"""Readers of data sets: each makes an `Images` from the settings and the name of a part."""
