"""The interface of samplers: each is asked for architectures and told their scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from base.seeds import derive_seed
from search.sampling.encoding import Encoding, Genome

Scored = tuple[Genome, float]
"""An architecture and its score; more is better."""
Costs = Callable[[Genome], Mapping[str, float]]
"""The costs of an architecture: "parameters", "multiply_adds" and, if it is known, "latency_ms"."""


class Sampler(ABC):
    """A sampler proposes architectures of `encoding` and learns from their scores.

    `config` is the configuration of the whole search, in which a sampler finds fields of its own;
    `costs` computes the costs of an architecture. All randomness comes from `self.random` or is
    seeded by `seed`. Further attributes are saved with each checkpoint: numbers, text, None,
    tensors, and tuples, lists and dictionaries of them. A sampler that keeps anything else
    overrides `state_dict` and `load_state_dict`.
    """

    evaluation_share: float = 1.0
    """Share of a whole evaluation that the architectures asked for last need, above 0 and at most
    1; see `ask`."""
    has_policy: bool = False
    """Whether it has a distribution of architectures of its own, from which `draw` draws."""
    objective: str = "parameters"
    """The cost that the report weighs scores against: one of the keys of `Costs`."""
    learns_while_weights_move: bool = False
    """Whether scores made with other weights of the supernet serve it as well, so that it may be
    asked while they are trained."""

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        self.encoding = encoding
        self.config = config
        self.seed = seed
        self.costs = costs
        self.random = Random(derive_seed(seed, "sampler"))

    @abstractmethod
    def ask(self) -> list[Genome]:
        """Returns the architectures to evaluate next; none if there is nothing left to find.

        May contain duplicates. Callers may call `ask` again before `tell`. After each call,
        `evaluation_share` says how much of an evaluation the architectures need: 0.25 is a quarter
        of the validation images.
        """

    @abstractmethod
    def tell(self, scored: Sequence[Scored]) -> None:
        """Takes scores of architectures that were asked for, in that order; some may have been left
        out."""

    def draw(self) -> Genome:
        """Draws one architecture of its policy, for a training step of the shared weights."""
        return self.encoding.random(self.random)

    def gathered(self) -> Sequence[Scored]:
        """Returns the findings of other processes that take part in the same search."""
        return ()

    def readings(self) -> Mapping[str, float]:
        """Returns numbers for the curves, by name: the state of the sampler."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns all state that asking and telling change."""
        own = {name: value for name, value in vars(self).items() if name not in _FIXED}
        return {"random": self.random.getstate(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back."""
        self.random.setstate(state["random"])
        for name, value in state.items():
            if name != "random":
                setattr(self, name, value)


_FIXED = ("encoding", "config", "seed", "costs", "random")
