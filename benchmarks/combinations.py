"""`python -m benchmarks.combinations`: writes docs/combinations.md, the methods with their parts.

A method is a composition of parts, and each part is an option of every method. The tables say, for
both spaces and every pair of a method and a part, whether it runs, by asking the configuration
itself; tests/benchmarks/test_combinations.py runs them all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

from base.files import write_atomically
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import get_method, list_methods
from training.run.arguments import Parser
from training.run.command import command

PAGE = Path(__file__).parent.parent / "docs" / "combinations.md"
SPACES = ("darts", "nasbench201")
INTRODUCTION = """\
# Combinations

A published method is a composition of parts, and every part is an option of every method: take the
method that is nearest to your aim and name the parts that differ. A combination that makes no sense
is refused in one line.

    python -m search.gdas --regulariser.name beta --regulariser.weight 1
    python -m search.pcdarts --relaxation.name dirichlet --regulariser.name kl --regulariser.weight 0.001
    python -m search.drnas --config nasbench201_drnas --selection.name perturbation

In the tables below a row is `python -m search.METHOD`, and a column adds the options of one part to
it. **own**: the method has the part already, with values of its own; **runs**: the part can be
added; **refused**: it cannot, for the reason in the note. `python -m benchmarks.combinations` writes
this page.
"""


@dataclass(frozen=True)
class Part:
    """A column: options {dotted name: value} that are put on top of a method's defaults; the first
    one names the part."""

    name: str
    meaning: str
    options: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """Returns the part as arguments of a method's command line."""
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.options.items()}
        return [argument for name, text in texts.items() for argument in (f"--{name}", text)]

    def is_own(self, config: SearchConfig) -> bool:
        """Says whether `config` has the part: its first option is the same or, as a number or a
        list, another one than in DARTS."""
        name, value = next(iter(self.options.items()))
        present = value_of(config, name)
        return bool(present == value or (not isinstance(value, bool | str) and present != value_of(SearchConfig(), name)))


PARTS = (
    Part("softmax", "DARTS", {"relaxation.name": "softmax"}),
    Part("gumbel", "SNAS", {"relaxation.name": "gumbel"}),
    Part("straight_through", "GDAS", {"relaxation.name": "straight_through"}),
    Part("dirichlet", "DrNAS", {"relaxation.name": "dirichlet"}),
    Part("partial", "PC-DARTS: a share of the channels goes through operations", {"partial": 4}),
    Part("edge_normalization", "PC-DARTS: edges have weights of their own", {"edge_normalization": True}),
    Part("auxiliary_skip", "DARTS-: a skip connection that fades", {"auxiliary_skip": 1.0}),
    Part("beta", "beta-DARTS: a penalty on the alphas", {"regulariser.name": "beta", "regulariser.weight": 1.0}),
    Part("kl", "DrNAS: a penalty on the concentrations", {"regulariser.name": "kl", "regulariser.weight": 1.0}),
    Part("stages", "DrNAS: prunes half way and widens", {"stages.keep": [3], "stages.partial": [1]}),
    Part("perturbation", "DARTS-PT: selects by perturbing the supernet", {"selection.name": "perturbation"}),
    Part("stop: skips", "ends a search that has too many skip connections", {"early_stop.when": "skips"}),
    Part("stop: eigenvalue", "ends a search whose Hessian becomes sharp", {"early_stop.when": "eigenvalue"}),
    Part("second order", "DARTS: the gradient through a step of the weights", {"order": "second"}),
    Part("one level", "SNAS: alphas and weights descend the same loss", {"bilevel": False}),
    Part("shapley", "Shapley-NAS: alphas follow contributions to the score", {"alphas.update": "shapley"}),
    Part("untied cells", "each cell has alphas of its own", {"tie_cells": False}),
)


def value_of(config: SearchConfig, name: str) -> Any:
    """Returns the value of the option with that dotted name."""
    return reduce(getattr, name.split("."), config)


def with_options(config: SearchConfig, options: Mapping[str, Any]) -> SearchConfig:
    """Returns `config` with other values, {dotted name: value}. Raises ValueError if the
    configuration refuses them."""
    fields: dict[str, Any] = {}
    for name, value in options.items():
        field, _, inner = name.partition(".")
        fields[field] = fields.get(field, {}) | {inner: value} if inner else value
    return replace(
        config,
        **{
            field: replace(getattr(config, field), **value) if isinstance(value, dict) else value
            for field, value in fields.items()
        },
    )


def combination(method: str, part: Part, space: str) -> SearchConfig:
    """Returns the method in that space with the part, or as it is if the part is its own.

    Raises ValueError, with the reason, if the two do not go together.
    """
    own = published(method, space)
    return own if part.is_own(own) else with_options(own, part.options)


@cache
def published(method: str, space: str) -> SearchConfig:
    """Returns the published configuration of a method in a space."""
    return get_method(method).parse(options_of(method, space))[0]


def options_of(method: str, space: str) -> list[str]:
    """Returns the options that select it: the shipped configuration, or none in the space of DARTS,
    for which the defaults are."""
    return [] if space == "darts" else ["--config", f"{space}_{method}"]


def heading(space: str) -> str:
    """Returns the heading of the table of one space."""
    return f"## `python -m search.{' '.join(['METHOD', *options_of('METHOD', space)])}`"


def reason_to_refuse(method: str, part: Part, space: str) -> str | None:
    """Returns the reason why the part cannot be added to the method, in one line; None if it
    can."""
    try:
        combination(method, part, space)
    except ValueError as error:
        return str(error)
    return None


def page() -> str:
    """Returns the text of docs/combinations.md."""
    columns = [
        "| column | options | what it is |",
        "|---|---|---|",
        *(f"| {part.name} | `{' '.join(part.arguments())}` | {part.meaning} |" for part in PARTS),
    ]
    sections = [INTRODUCTION, "\n".join(["## Columns", "", *columns, ""])]
    return "\n".join([*sections, *(_section(space) for space in SPACES)])


def _section(space: str) -> str:
    """Returns the table of one space and its notes."""
    notes: dict[str, int] = {}

    def cell(method: str, part: Part) -> str:
        if (reason := reason_to_refuse(method, part, space)) is not None:
            return f"refused ({notes.setdefault(reason, len(notes) + 1)})"
        return "own" if part.is_own(published(method, space)) else "runs"

    lines = [
        heading(space),
        "",
        f"| method | {' | '.join(part.name for part in PARTS)} |",
        "|---" * (len(PARTS) + 1) + "|",
    ]
    lines += [
        f"| {method} | {' | '.join(cell(method, part) for part in PARTS)} |" for method in list_methods(DifferentiableMethod)
    ]
    lines += ["", *(f"{number}. {reason}" for reason, number in notes.items()), ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page; with --check it only says, by its exit status, whether the page is up to
    date."""
    parser = Parser(prog="benchmarks.combinations", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page is out of date")
    if not parser.parse_args(argv).check:
        write_atomically(PAGE, page())
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE}: out of date; write it anew with python -m benchmarks.combinations")
    return 1


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.combinations", main))
