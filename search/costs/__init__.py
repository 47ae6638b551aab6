"""Costs of architectures, and the benchmark table that knows them."""
