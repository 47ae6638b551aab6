"""`python -m search.darts_pt`: DARTS-PT (Wang et al. 2021).

A search by DARTS, then a selection that ignores the alphas: edge by edge it keeps the operation
without which the supernet loses most accuracy, with more training in between.
`--selection.name perturbation` puts this selection on top of any method.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.selection import SelectionConfig
from search.methods import Published

METHOD = DifferentiableMethod(
    "darts_pt",
    "DARTS-PT (Wang et al. 2021)",
    "selects by perturbing the trained supernet, not by alphas",
    lambda: SearchConfig(exclude=["none"], selection=SelectionConfig("perturbation")),
    published=Published(cifar10_error=(2.61, 0.08), nasbench201=(88.11, None), nasbench201_source="Wang et al. 2021"),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
