"""The string of NAS-Bench-201 (Dong & Yang 2020), alone or as AutoDL prints it."""

import re
from collections.abc import Iterable

from base.checks import InputError
from base.texts import show
from supernet.genotypes.parsed import Form, ParsedGenotype, PlainCells, of_nasbench201

_STRUCTURE = re.compile(r"Structure\s*\(\s*([0-9]{1,4}) nodes with (.*)\)", re.DOTALL)


def write_nasbench201(genotype: ParsedGenotype) -> str:
    """Writes `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, the inputs of each node ordered by their
    source."""
    ((nodes, _),) = genotype.cells.values()
    ordered = (sorted(feeds, key=lambda feed: feed[1]) for feeds in nodes)
    return "+".join("|" + "".join(f"{operation}~{source}|" for operation, source in feeds) for feeds in ordered)


def write_autodl(genotype: ParsedGenotype) -> str:
    """Writes `Structure(4 nodes with |...|)`, as AutoDL (github.com/D-X-Y/AutoDL-Projects) logs
    it."""
    return f"Structure(4 nodes with {write_nasbench201(genotype)})"


def misfit_of_edges(cells: PlainCells) -> str | None:
    """Returns why a cell has other edges than those of NAS-Bench-201, None if it has these."""
    for kind, (nodes, concat) in cells.items():
        if len(nodes) != 3 or concat != (3,):
            return f"{kind}: it needs 3 nodes, the last of them the output"
        wrong = next(filter(None, (_wrong_sources(kind, node, feeds) for node, feeds in enumerate(nodes))), None)
        if wrong:
            return wrong
    return None


def _wrong_sources(kind: str, node: int, feeds: Iterable[tuple[str, int]]) -> str | None:
    """Returns the problem of the states that feed a node of a NAS-Bench-201 string; None if they
    are right."""
    sources = [source for _, source in feeds]
    if sorted(sources) == list(range(node + 1)):
        return None
    given = ", ".join(map(show, sources[:10])) or "none"
    return f"{kind}, node {node}: it needs exactly one operation from each of the states 0 to {node}, but has {given}"


def read_nasbench201(text: str) -> ParsedGenotype:
    """Reads the string, the inputs of each node in any order, or `Structure(...)` with it."""
    structure = _STRUCTURE.fullmatch(text)
    if structure is not None:
        if structure[1] != "4":
            raise InputError(f"Structure(...): a cell of NAS-Bench-201 has 4 nodes, not {structure[1]}")
        text = structure[2]
    groups = [group.strip() for group in text.split("+", 10)]
    if len(groups) != 3:
        raise InputError(f"cell: a NAS-Bench-201 string has 3 nodes with + between them, not {len(groups)}")
    nodes = []
    for node, group in enumerate(groups):
        if len(group) < 3 or group[0] != "|" or group[-1] != "|":
            raise InputError(f"cell, node {node}: expected |operation~state|...|, got {show(group)}")
        feeds = []
        for number, edge in enumerate(group[1:-1].split("|", 20)):
            match = re.fullmatch(r"\s*(\w+)\s*~\s*([0-9]{1,4})\s*", edge)
            if match is None:
                raise InputError(f"cell, node {node}, input {number}: expected operation~state, got {show(edge)}")
            feeds.append((match[1], int(match[2])))
        wrong = _wrong_sources("cell", node, feeds)
        if wrong:
            raise InputError(wrong)
        nodes.append(feeds)
    return of_nasbench201(nodes)


NASBENCH201 = Form(write_nasbench201, ("nasbench201",), misfit_of_edges)
AUTODL = Form(write_autodl, ("nasbench201",), misfit_of_edges)
