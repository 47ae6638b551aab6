"""Bayesian optimisation of architectures: its configuration and its models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from base.checks import FieldError, Name, choices, whole
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.model_based import ModelBasedSampler
from search.sampling.samplers.sampler import Costs, Sampler, Scored
from training.run.structure import Part, random_state

Model = Literal["bananas", "gp", "optuna_tpe", "optuna_gp"]
EncodingName = Literal["path", "one_hot"]


@dataclass
class BayesConfig:
    """The model of scores, and how architectures are proposed by it."""

    model: Model = "bananas"
    """bananas: an ensemble of neural networks; gp: a Gaussian process; optuna_tpe, optuna_gp:
    Optuna's samplers, a tree-structured Parzen estimator and its own Gaussian process (pip install
    'fusenas[bayes]')."""
    encoding: EncodingName | None = None
    """The view of bananas and gp on an architecture: path, the sequences of operations that lead
    through its cells; one_hot, the operation of each edge. null: path for bananas, one_hot for
    gp."""
    initial: int = 10
    """Random architectures to begin with."""
    batch: int | None = None
    """Architectures that bananas and gp propose from one fit; null: 10. Optuna's samplers propose
    one at a time."""
    storage: str | None = None
    """The place of Optuna's study, for several processes and its dashboard: a file for its journal,
    or the URL of a database, such as sqlite:///study.db; null: in memory."""
    study: str | None = None
    """Name of the study in the storage; null: fusenas."""

    def __post_init__(self) -> None:
        choices(self)
        whole(self, "initial", "batch")
        for name in ("encoding", "batch") if self.by_optuna else ("storage", "study"):
            if getattr(self, name) is not None:
                raise FieldError(name, f"has no meaning for {self.model}; leave it out")
        for name in ("storage", "study"):
            if getattr(self, name) == "":
                raise FieldError(name, "must not be empty")
        if self.study is not None and self.storage is None:
            raise FieldError("study", "a study has a name in a storage alone; set ", Name("storage"), ", or leave it out")

    @property
    def by_optuna(self) -> bool:
        return self.model.startswith("optuna")


@dataclass
class BayesSearchConfig(SamplingConfig):
    """Bayesian optimisation."""

    bayes: BayesConfig = field(default_factory=BayesConfig)
    """The model of scores, and how architectures are proposed by it."""


class BayesSampler(Sampler):
    """Bayesian optimisation with the model that `bayes.model` names.

    Raises ValueError if Optuna is wanted and not installed, or if its storage cannot be used.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self._model = _sampler_class(config.bayes)(encoding, config, seed, costs)

    def begin(self, identity: Mapping[str, str]) -> None:
        self._model.begin(identity)

    def ask(self) -> list[Genome]:
        return self._model.ask()

    def tell(self, scored: Sequence[Scored]) -> None:
        self._model.tell(scored)

    def gathered(self) -> Sequence[Scored]:
        return self._model.gathered()

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate(), "model": self._model.state_dict()}

    def parts(self) -> dict[str, Part]:
        return {"random": random_state, "model": self._model.structure()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])
        self._model.load_state_dict(state["model"])


def _sampler_class(bayes: BayesConfig) -> type[Sampler]:
    if not bayes.by_optuna:
        return ModelBasedSampler
    try:
        from search.sampling.samplers.optuna_study import OptunaSampler
    except ModuleNotFoundError as error:
        raise FieldError("bayes.model", f"{bayes.model} needs Optuna: pip install 'fusenas[bayes]'") from error
    return OptunaSampler
