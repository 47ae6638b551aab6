"""What architectures cost, and what a benchmark table knows of them."""
