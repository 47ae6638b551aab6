"""`python -m search.random`: random search with weight sharing (Li & Talwalkar 2019).

One path a step, drawn uniformly, trains the shared weights; then random architectures are evaluated
with them. The weights are trained as in the paper's last setting for CIFAR-10 (its table 6). There
5000 architectures are evaluated with one batch each and the ten best of every thousand with all
images; here 1000, each with all images, or with --halving.eta most of them in part.
"""

from search.methods import Published
from search.sampling.method import SamplingMethod
from search.sampling.samplers.uniform import RandomSearchConfig, UniformSampler
from training.optim import OptimizerConfig

METHOD = SamplingMethod(
    "random",
    "random search with weight sharing (Li & Talwalkar 2019)",
    "evaluates random architectures; Hyperband as an option",
    lambda: RandomSearchConfig(channels=24, epochs=150, evaluations=1000, weights=OptimizerConfig(clip=1.0)),
    sampler=UniformSampler,
    published=Published(
        cifar10_error=(2.85, 0.08),
        nasbench201=(87.66, 1.69),
        nasbench201_validation=(84.16, 1.69),
        nasbench201_source="Dong & Yang 2020",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
