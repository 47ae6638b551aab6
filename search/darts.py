"""`python -m search.darts`: DARTS (Liu, Simonyan & Yang 2019), first and second order.

A softmax over the candidates of every edge relaxes the choice; alphas descend the validation loss
and weights the training loss, in turns; the space's rule derives the cell from the strongest
candidates. `SearchConfig` is as DARTS has it.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import Published

METHOD = DifferentiableMethod(
    "darts",
    "DARTS (Liu, Simonyan & Yang 2019)",
    "a softmax over candidates, trained bilevel",
    SearchConfig,
    published=Published(
        cifar10_error=(3.00, 0.14),
        nasbench201=(54.30, 0.00),
        nasbench201_validation=(39.77, 0.00),
        nasbench201_source="Dong & Yang 2020",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
