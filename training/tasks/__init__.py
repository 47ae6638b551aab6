"""Tasks that networks are trained for: data, loss, measures and their names."""
