"""`python -m search.shapley`: Shapley-NAS (Xiao, Wang, Zhu, Zhou & Lu 2022).

Alphas do not descend a gradient. Once an epoch they take a step along the Shapley values of the
candidates, which are their contributions to the supernet's accuracy on validation images, over
random orders in which they leave it; the first half of the search trains the weights alone.
As the authors ran it, with a quarter of the channels through the candidates; where the estimate
differs from theirs `search.attribution.update` says.
"""

from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import Published
from training.optim import OptimizerConfig

METHOD = DifferentiableMethod(
    "shapley",
    "Shapley-NAS (Xiao, Wang, Zhu, Zhou & Lu 2022)",
    "alphas move by the Shapley values of the candidates for validation accuracy",
    lambda: SearchConfig(
        batch_size=256,
        exclude=["none"],
        partial=4,
        weights=OptimizerConfig(lr=0.1, lr_min=0.0),
        alphas=AlphaConfig(warmup=0.5, update="shapley"),
    ),
    published=Published(cifar10_error=(2.43, None)),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
