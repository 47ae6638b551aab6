"""`python -m search.pcdarts`: PC-DARTS (Xu et al. 2020).

Only a quarter of the channels goes through the candidates, which saves memory for larger batches
and favours no operation without weights; every edge has a weight of its own, so that the choice of
edges does not hang on which channels were taken. The alphas wait until the weights are worth
comparing.
"""

from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import Published
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
    published=Published(
        cifar10_error=(2.57, 0.07),
        nasbench201=(93.41, 0.30),
        nasbench201_validation=(89.96, 0.15),
        nasbench201_source="Chen et al. 2021 (DrNAS)",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
