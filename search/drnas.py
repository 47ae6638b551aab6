"""`python -m search.drnas`: DrNAS (Chen, Wang, Cheng, Tang & Hsieh 2021).

Weights of the candidates are drawn from a Dirichlet distribution with learned concentrations. Half
way the weaker candidates are pruned and more channels go through the others; each stage first
trains the weights alone. The regulariser of the paper is the weight decay of the alphas, which
holds the concentrations near 1.
"""

from search.differentiable.config import AlphaConfig, SearchConfig, StagesConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.relaxations import RelaxationConfig
from search.methods import Published
from training.optim import OptimizerConfig

METHOD = DifferentiableMethod(
    "drnas",
    "DrNAS (Chen, Wang, Cheng, Tang & Hsieh 2021)",
    "draws weights from a Dirichlet distribution; prunes and widens on the way",
    lambda: SearchConfig(
        channels=36,
        cells=20,
        exclude=["none"],
        partial=6,
        stages=StagesConfig(keep=[4], partial=[4]),
        relaxation=RelaxationConfig("dirichlet"),
        weights=OptimizerConfig(lr=0.1, lr_min=0.0),
        alphas=AlphaConfig(lr=6e-4, warmup=0.4),
    ),
    published=Published(
        cifar10_error=(2.46, 0.03),
        nasbench201=(94.36, 0.00),
        nasbench201_validation=(91.55, 0.00),
        nasbench201_source="Chen et al. 2021 (DrNAS)",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
