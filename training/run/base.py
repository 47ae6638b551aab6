"""The common part of the configurations of all runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType

from base.checks import check_seed, whole

MAY_CHANGE: Mapping[str, bool] = MappingProxyType({"may_change": True})
"""Metadata of a field of a configuration that a resumed run may change, as it changes no earlier
result."""


@dataclass(kw_only=True)
class RunConfig:
    """The settings of any run."""

    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1 ..."""
    threads: int | None = None
    """CPU threads; null: one for each core. On the CPU the same bits come out only from the same
    number."""

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        whole(self, "threads")

    def before(self) -> Sequence["RunConfig"]:
        """Returns the configurations that the run had before it went on for longer, the first one
        first."""
        return ()

    def may_change(self) -> frozenset[str]:
        """Returns the names of the fields that a resumed run may change.

        A field keeps the mark `MAY_CHANGE` if a subclass gives it another default.
        """
        schemas = [schema for schema in type(self).__mro__ if is_dataclass(schema)]
        return frozenset(each.name for schema in schemas for each in fields(schema) if each.metadata.get("may_change"))
