"""How good trained networks are, and how fast."""
