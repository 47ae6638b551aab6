"""`python -m search.darts_minus`: DARTS- (Chu et al. 2021).

A skip connection helps any supernet to train, whether or not it is a good operation. An auxiliary
one beside every edge, whose weight falls from 1 to 0, takes that role away from the candidate. On
edges of stride 2 the auxiliary connection shares the weights of the candidate's factorised
reduction.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import Published

METHOD = DifferentiableMethod(
    "darts_minus",
    "DARTS- (Chu et al. 2021)",
    "an auxiliary skip connection that fades",
    lambda: SearchConfig(exclude=["none"], auxiliary_skip=1.0),
    published=Published(
        cifar10_error=(2.59, 0.08),
        nasbench201=(93.80, 0.40),
        nasbench201_validation=(91.03, 0.44),
        nasbench201_source="Chu et al. 2021",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
