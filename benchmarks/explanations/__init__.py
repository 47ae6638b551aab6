"""Whether explanations of searches are true, and the time that they take."""
