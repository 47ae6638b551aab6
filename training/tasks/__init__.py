"""What networks are trained for: the data of a task, its loss, and how its results are measured and named."""
