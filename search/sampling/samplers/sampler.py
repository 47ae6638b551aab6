"""The interface of samplers: each is asked for architectures and told their scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from base.checks import InputError
from base.seeds import derive_seed
from search.sampling.encoding import Encoding, Genome
from training.run.structure import Part, fields, misfit, numeric, random_state, roughly_like, row, rows, share

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
    overrides `state_dict` and `load_state_dict`. `parts` says of what they are.
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

    def begin(self, identity: Mapping[str, str]) -> None:  # noqa: B027  # most samplers do not care
        """Is called once, before the first `ask`, with all that scores depend on, in short texts by
        subject.

        A sampler that shares scores with other processes or runs holds theirs to be of the same
        identity. Raises InputError where they are not.
        """

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

    def parts(self) -> dict[str, Part]:
        """Returns the structure of each part of `state_dict`, by name.

        Here each part is of the kind that it has now, and one that is None may become anything. A
        class that says more adds it: a checkpoint with other parts than it names is then refused.
        """
        own = {name: roughly_like(value) for name, value in self.state_dict().items()}
        return own | {"random": random_state, "evaluation_share": share}

    def structure(self) -> Part:
        """Returns the structure of `state_dict`: its `parts`, and of a class that does not name
        them attributes that come later, as well."""
        parts = self.parts()
        if "parts" in vars(type(self)):
            return fields(parts, may_lack=("evaluation_share",))
        return fields(parts, may_lack=parts, may_have_more=True)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back."""
        self.random.setstate(state["random"])
        for name, value in state.items():
            if name != "random":
                setattr(self, name, value)


def genome_of(encoding: Encoding) -> Part:
    """Returns the structure of an architecture of `encoding`."""

    def check(name: str, value: Any) -> None:
        if type(value) is not tuple or not all(type(column) is int for column in value):
            raise misfit(name, value, "an architecture")
        try:
            encoding.check(value)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error

    return check


def scored_of(encoding: Encoding) -> Part:
    """Returns the structure of architectures with their scores."""
    return rows(row(genome_of(encoding), numeric))


_FIXED = ("encoding", "config", "seed", "costs", "random")
