"""The explanation of a retrained network: what it looks at, and how far such maps can be trusted."""
