"""`python -m search.enas`: ENAS (Pham, Guan, Zoph, Le & Dean 2018).

A controller samples the architectures whose paths train the shared weights, one a step; after each
epoch it learns by REINFORCE from 300 of them, each scored on one validation batch. Then 100 are
evaluated on all validation images. The weights are trained as its authors' script for cells trains
them, without dropped paths, the auxiliary head and the restarts of the learning rate, and in the
space and with the halves of the training data of DARTS.

The controller's defaults are for hundreds of evaluations. In the table of NAS-Bench-201, 40 seeds,
300 evaluations, they end at a test accuracy of 94.20±0.22; with the paper's temperature of 5, 20
architectures a step and a baseline decay of 0.99 at 93.99±0.25; with --controller.replay_epochs 4
at 94.27±0.19 (after 100: 93.97±0.34 instead of 93.77±0.33).
"""

from search.methods import Published
from search.sampling.method import SamplingMethod
from search.sampling.samplers.reinforce import EnasSampler, EnasSearchConfig
from training.optim import OptimizerConfig

METHOD = SamplingMethod(
    "enas",
    "ENAS (Pham, Guan, Zoph, Le & Dean 2018)",
    "an LSTM controller samples architectures and learns by REINFORCE; experience replay as an option",
    lambda: EnasSearchConfig(
        channels=20,
        epochs=150,
        batch_size=160,
        paths="sampler",
        guide=300,
        weights=OptimizerConfig(lr=0.05, lr_min=0.0005, nesterov=True, weight_decay=1e-4),
    ),
    sampler=EnasSampler,
    published=Published(
        cifar10_error=(2.89, None),
        nasbench201=(54.30, 0.00),
        nasbench201_validation=(39.77, 0.00),
        nasbench201_source="Dong & Yang 2020",
    ),
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
