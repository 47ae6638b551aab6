"""Configurations that are shipped: `--config digits` reads `configs/digits.yaml`."""
