"""Who is at work in the directory of a run, and which of its files are the run's own."""
