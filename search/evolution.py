"""`python -m search.evolution`: regularised evolution (Real, Aggarwal, Huang & Le 2019).

The best of a random sample of the population has a mutated child, and the oldest dies. With
--evolution.name it is a genetic algorithm in generations, or NSGA-II (Deb, Pratap, Agarwal &
Meyarivan 2002) for the score and a cost.

A fifth of the mutations move an operation to another edge, which is also the share of such
neighbours in the DARTS space. In the table of NAS-Bench-201 (population 30, sample 10, 300
evaluations, 500 seeds) shares of 0, 0.2, 0.5 and 1 end at a test accuracy of 94.26, 94.36, 94.33
and 93.47.
"""

from search.sampling.method import SamplingMethod
from search.sampling.samplers.evolution import EvolutionSampler, EvolutionSearchConfig

METHOD = SamplingMethod(
    "evolution",
    "regularised evolution (Real, Aggarwal, Huang & Le 2019)",
    "mutates the best of a sample, and the oldest dies; genetic algorithm and NSGA-II as options",
    EvolutionSearchConfig,
    sampler=EvolutionSampler,
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
