"""Floor 2: the weight-sharing network, the spaces it searches, and the genotypes that come out, with the network of each."""

from supernet import spaces as _spaces  # registers the spaces that ship with the project
from supernet.discrete import DiscreteNetwork
from supernet.genotype import Genotype
from supernet.network import Path, Supernet
from supernet.space import SearchSpace, get_space, list_spaces, register_space

__all__ = [
    "DiscreteNetwork",
    "Genotype",
    "Path",
    "SearchSpace",
    "Supernet",
    "get_space",
    "list_spaces",
    "register_space",
]

del _spaces
