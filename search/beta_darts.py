"""`python -m search.beta_darts`: beta-DARTS (Ye et al. 2022).

A regulariser, the log of the sum of exponentials of each edge's alphas, grows in weight from epoch
to epoch and keeps the softmax from being decided by the size of its inputs. In the 50 epochs of the
DARTS space its weight grows to 25.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.regularisers import RegulariserConfig
from search.methods import Published

METHOD = DifferentiableMethod(
    "beta_darts",
    "beta-DARTS (Ye et al. 2022)",
    "beta-decay regularisation of the alphas",
    lambda: SearchConfig(regulariser=RegulariserConfig("beta", weight=0.0, weight_end=25.0)),
    published=Published(
        cifar10_error=(2.53, 0.08),
        nasbench201=(94.36, 0.00),
        nasbench201_validation=(91.55, 0.00),
        nasbench201_source="Ye et al. 2022",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
