"""Pages that describe a run and its results."""
