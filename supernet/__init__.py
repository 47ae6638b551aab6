"""Floor 2: the weight-sharing network, the spaces it searches, and the genotypes that come out,
with the network of each."""

from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from supernet.network import Supernet
from supernet.path import Path
from supernet.spaces.skeleton import Skeleton, register_skeleton
from supernet.spaces.space import SearchSpace, get_space, list_spaces, register_space

__all__ = [
    "DiscreteNetwork",
    "Genotype",
    "Path",
    "SearchSpace",
    "Skeleton",
    "Supernet",
    "get_space",
    "list_spaces",
    "register_skeleton",
    "register_space",
]
