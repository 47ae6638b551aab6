"""`python -m search.hybrid`: a controller as in ENAS (Pham et al. 2018) and evolution (Real et al.
2019) with one population.

Half of the architectures are proposed by the controller, half are mutated and crossed winners; all
of them enter a population, from which the controller learns, too, by importance weights. The shared
weights are trained as DARTS trains them, along paths that the controller samples, which is guided
as in ENAS.

In the table of NAS-Bench-201, 40 seeds, 300 evaluations, it ends at a test accuracy of 94.35±0.11:
better than the controller alone, by 0.14±0.04 (mean and standard error of the differences, seed by
seed), and not better than the operators alone (--hybrid.share 0), which end at 94.35±0.08. After
100 evaluations: 94.00±0.35, the parts 93.77±0.33 and 94.07±0.26.
"""

from search.sampling.method import SamplingMethod
from search.sampling.samplers.hybrid import HybridSampler, HybridSearchConfig

METHOD = SamplingMethod(
    "hybrid",
    "ENAS (Pham et al. 2018) with evolution (Real et al. 2019)",
    "a controller proposes, genetic operators refine, both from one population",
    lambda: HybridSearchConfig(paths="sampler", guide=300),
    sampler=HybridSampler,
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
