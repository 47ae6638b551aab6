"""`python -m search.snas`: SNAS (Xie, Zheng, Liu & Lin 2019).

Weights of the candidates are drawn from a concrete distribution whose temperature falls, so that
the mixture becomes a choice by itself; alphas and weights descend the same loss on the same images
by the same backward pass. No training uses the validation images, so there are few: a tenth, to
watch the search by.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.relaxations import RelaxationConfig
from search.methods import Published

METHOD = DifferentiableMethod(
    "snas",
    "SNAS (Xie, Zheng, Liu & Lin 2019)",
    "draws weights from a concrete distribution; one level",
    lambda: SearchConfig(
        epochs=150,
        bilevel=False,
        train_fraction=0.9,
        relaxation=RelaxationConfig("gumbel", temperature=1.0, temperature_end=0.03),
    ),
    published=Published(
        cifar10_error=(2.85, 0.02),
        nasbench201=(92.77, 0.83),
        nasbench201_validation=(90.10, 1.04),
        nasbench201_source="Chen et al. 2021 (DrNAS)",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
