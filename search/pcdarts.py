"""`python -m search.pcdarts`: PC-DARTS (Xu et al. 2020).

Only a quarter of the channels goes through the candidates, which saves memory for larger batches and favours no operation
without weights; every edge has a weight of its own, so that the choice of edges does not hang on which channels were taken. The
alphas wait until the weights are worth comparing.
"""

from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.method import DifferentiableMethod
from training.optim import OptimizerConfig

METHOD = DifferentiableMethod(
    "pcdarts",
    "PC-DARTS (Xu et al. 2020)",
    "a quarter of the channels through operations; edges have weights of their own",
    lambda: SearchConfig(
        batch_size=256,
        partial=4,
        edge_normalization=True,
        weights=OptimizerConfig(lr=0.1, lr_min=0.0),
        alphas=AlphaConfig(lr=6e-4, warmup=0.3),
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
