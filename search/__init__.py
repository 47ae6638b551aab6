"""Floor 4: search methods.

`python -m search.darts --help` lists what one takes; `search.run` is the same from Python.
"""

import base.program  # noqa: F401  # first: it answers Ctrl-C while the rest is imported
from search.api import run
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod, DifferentiableRun
from search.differentiable.regularisers import register_regulariser
from search.differentiable.relaxations import Relaxation, RelaxationConfig, register_relaxation
from search.finished import SearchRun
from search.methods import Method, get_method, list_methods, register_method
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingMethod, SamplingRun
from search.sampling.samplers.sampler import Sampler
from search.sampling.scores.proxies import register_proxy

__all__ = [
    "DifferentiableMethod",
    "DifferentiableRun",
    "Encoding",
    "Genome",
    "Method",
    "Relaxation",
    "RelaxationConfig",
    "Sampler",
    "SamplingConfig",
    "SamplingMethod",
    "SamplingRun",
    "SearchConfig",
    "SearchRun",
    "get_method",
    "list_methods",
    "register_method",
    "register_proxy",
    "register_regulariser",
    "register_relaxation",
    "run",
]
