"""Floor 4: a genotype as an ordinary network, trained from scratch.

`python -m retrain --help` lists its options; `retrain.run` is the same from Python.
"""

import base.program  # noqa: F401  # first: it answers Ctrl-C while the rest is imported
from retrain.api import run
from retrain.finished import RetrainRun
from supernet.discrete import DiscreteNetwork

__all__ = ["DiscreteNetwork", "RetrainRun", "run"]
