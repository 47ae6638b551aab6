"""`python -m search.nao`: NAO, neural architecture optimisation (Luo, Tian, Qin, Chen & Liu 2018).

An encoder maps architectures to a continuous space, where a predictor of their scores has a
gradient; the best are moved along it and decoded to new ones. Training goes on with these, round by
round. Of the paper's versions it is the one with shared weights.
"""

from search.methods import Published
from search.sampling.method import SamplingMethod
from search.sampling.samplers.nao import NaoSampler, NaoSearchConfig

METHOD = SamplingMethod(
    "nao",
    "NAO (Luo, Tian, Qin, Chen & Liu 2018)",
    "moves the best architectures along the gradient of a predictor in a learned continuous space",
    NaoSearchConfig,
    sampler=NaoSampler,
    published=Published(cifar10_error=(3.53, None)),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
