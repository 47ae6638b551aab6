"""The search from Python."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from base.checks import InputError
from search.methods import get_method
from supernet import Genotype
from training.run.config import RunOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def run(
    config: "DataclassInstance | None" = None,
    method: str = "darts",
    run: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    extend: Literal["restart", "tail"] | None = None,
) -> Genotype:
    """Searches as `python -m search.METHOD` does and returns the genotype, which is also in the
    directory of the run.

    Args:
        config: what the method takes: a `SearchConfig` for those that descend a gradient, for one
            that samples the configuration of its module. `search.get_method(name).defaults()` is
            one as published; None: that.
        method: name of the method, one of `search.list_methods()`.
        run: directory of the run; None: runs/search_METHOD.
        resume: go on from the run's last checkpoint.
        overwrite: replace the run that the directory holds.
        extend: the way on of a run that is resumed with more epochs: its schedules begin anew for
            these, or stay at their last values.

    Raises:
        ValueError: a configuration that cannot be run, of another method, or a directory that
            cannot be taken; nothing is written then. Also if `stop` ended the search before it
            found anything.
        TrainingDiverged: the loss is NaN or infinite.
    """
    chosen = get_method(method)
    expected = type(chosen.defaults())
    config = chosen.defaults() if config is None else config
    if not isinstance(config, expected):
        raise InputError(f"config: search.{method} takes a {expected.__name__}, not a {type(config).__name__}")
    path = Path(run) if run is not None else Path("runs") / f"search_{method}"
    genotype = chosen.run(config, RunOptions(path, resume, overwrite, extend=extend))
    if genotype is None:
        raise InputError(f"{path}: stopped before any architecture was evaluated; go on with resume=True")
    return genotype
