"""Floor 4: a genotype as an ordinary network, trained from scratch. `python -m retrain --help` lists what it takes."""

from supernet.discrete import DiscreteNetwork

__all__ = ["DiscreteNetwork"]
