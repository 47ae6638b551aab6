"""Methods that sample whole architectures and rank them by a score: one file each, behind one interface, ask and tell."""

from search.samplers.encoding import Encoding, Genome
from search.samplers.sampler import Costs, Sampler, Scored

__all__ = ["Costs", "Encoding", "Genome", "Sampler", "Scored"]
