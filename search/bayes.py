"""`python -m search.bayes`: BANANAS (White, Neiswanger & Savani 2021), and Bayesian optimisation
with other models.

An ensemble of small neural networks predicts scores from encoded architectures; the mutations of
the best ones that are best in a draw from its predictions (Thompson sampling) are evaluated next.
With --bayes.model it is a Gaussian process, or a sampler of Optuna, whose study several processes
can share: give each its own --run, and all the same --bayes.storage.
"""

from search.sampling.method import SamplingMethod
from search.sampling.samplers.bayes import BayesSampler, BayesSearchConfig

METHOD = SamplingMethod(
    "bayes",
    "BANANAS (White, Neiswanger & Savani 2021)",
    "models scores by an ensemble, a Gaussian process or Optuna, and evaluates what may be best",
    BayesSearchConfig,
    sampler=BayesSampler,
)
main = METHOD.main

if __name__ == "__main__":
    raise SystemExit(main())
