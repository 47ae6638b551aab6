"""Where the score of an architecture comes from."""
