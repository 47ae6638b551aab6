"""What every method that samples whole architectures is: it is asked for some, and told how good they are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from base.seeds import derive_seed
from search.sampling.encoding import Encoding, Genome

Scored = tuple[Genome, float]
"""An architecture and its score; more is better."""
Costs = Callable[[Genome], Mapping[str, float]]
"""What an architecture costs: "parameters", "multiply_adds" and, where it is known, "latency_ms"."""


class Sampler(ABC):
    """Proposes architectures of `encoding` and learns from their scores.

    `config` is the configuration of the whole search, in which a sampler finds fields of its own; `costs` says what
    architectures cost. All that is random comes from `self.random` or is seeded by `seed`. What it keeps in further attributes
    is saved with each checkpoint: numbers, text, None, tensors, and tuples, lists and dictionaries of them. One that keeps
    anything else overrides `state_dict` and `load_state_dict`.
    """

    evaluation_share: float = 1.0
    """How much of a whole evaluation the architectures asked for last shall have, above 0 and at most 1; see `ask`."""
    has_policy: bool = False
    """It has a distribution of architectures of its own, which `draw` draws from."""
    objective: str = "parameters"
    """The cost that the report weighs scores against: one of the keys of `Costs`."""
    learns_while_weights_move: bool = False
    """Scores made with other weights of the supernet serve it as well, so it may be asked while they are still trained."""

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        self.encoding = encoding
        self.config = config
        self.seed = seed
        self.costs = costs
        self.random = Random(derive_seed(seed, "sampler"))

    @abstractmethod
    def ask(self) -> list[Genome]:
        """The architectures to evaluate next; none where there is nothing left to find.

        May contain duplicates. Callers may call `ask` again before `tell`. After each call, `evaluation_share` says how much
        of an evaluation the architectures need: 0.25 is a quarter of the validation images.
        """

    @abstractmethod
    def tell(self, scored: Sequence[Scored]) -> None:
        """Scores of architectures that were asked for, in that order; some may have been left out."""

    def draw(self) -> Genome:
        """One architecture of its policy, for a training step of the shared weights."""
        return self.encoding.random(self.random)

    def gathered(self) -> Sequence[Scored]:
        """What other processes that take part in the same search have found so far."""
        return ()

    def readings(self) -> Mapping[str, float]:
        """Numbers for the curves: what the sampler thinks, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that asking and telling change."""
        own = {name: value for name, value in vars(self).items() if name not in _FIXED}
        return {"random": self.random.getstate(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back."""
        self.random.setstate(state["random"])
        for name, value in state.items():
            if name != "random":
                setattr(self, name, value)


_FIXED = ("encoding", "config", "seed", "costs", "random")
