"""Images: which there are, how they are read, changed at random and cut into batches."""
