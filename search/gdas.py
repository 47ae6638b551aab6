"""`python -m search.gdas`: GDAS (Dong & Yang 2019).

Each step draws one candidate an edge by the Gumbel-max trick and runs that path alone; the gradient
of the soft draw, at a temperature that falls from 10 to 0.1, goes straight through the choice. It
takes 250 epochs, as a step trains one candidate of many. Only the entry that was chosen has a
gradient, as the paper says; its authors' code also sends the sum of the node's gradient to the
others.
"""

from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.relaxations import RelaxationConfig
from search.methods import Published
from training.optim import OptimizerConfig

METHOD = DifferentiableMethod(
    "gdas",
    "GDAS (Dong & Yang 2019)",
    "runs one sampled operation an edge; straight-through Gumbel-softmax",
    lambda: SearchConfig(
        epochs=250,
        batch_size=256,
        weights=OptimizerConfig(nesterov=True, weight_decay=5e-4),
        relaxation=RelaxationConfig("straight_through", temperature=10.0, temperature_end=0.1),
    ),
    published=Published(
        cifar10_error=(2.93, None),
        nasbench201=(93.61, 0.09),
        nasbench201_validation=(89.89, 0.08),
        nasbench201_source="Dong & Yang 2020",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
