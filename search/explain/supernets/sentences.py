"""The findings about a trained supernet in plain sentences: made of its numbers, and of nothing
else."""

from collections.abc import Iterable, Iterator

from search.explain.supernets.findings import EdgeFinding, Findings
from search.explain.supernets.margins import TOLERATED, Margin
from search.explain.supernets.measures import MEASURES
from search.explain.supernets.trained import Candidate, TrainedSupernet
from search.explain.supernets.truth import Truth


class Words:
    """The words for the score of a supernet and its candidates."""

    def __init__(self, supernet: TrainedSupernet) -> None:
        self.supernet = supernet
        self.scored_by = supernet.task.scored_by
        self.in_percent = supernet.in_percent
        self.score = self.scored_by.words
        larger = self.scored_by.larger_is_better
        self.worse, self.better = ("fall", "rise") if larger else ("rise", "fall")

    def number(self, amount: float, sign: int = 1) -> str:
        """Returns a difference of scores, times `sign`, without its unit: 2.1 for 0.021 of an
        accuracy."""
        written = f"{100 * sign * amount:.1f}" if self.in_percent else f"{sign * amount:.4g}"
        return written.removeprefix("-") if float(written) == 0 else written

    def points(self, amount: float) -> str:
        """Returns an amount of the score with its unit."""
        number = self.number(amount)
        if not self.in_percent:
            return number
        return f"{number} point{'' if number == '1.0' else 's'}"

    def change(self, margin: Margin) -> str:
        """Returns the change without a part: "accuracy falls by 2.1 points (1.6 to 2.6)"; an error
        rises."""
        if self.number(margin.fall).startswith("-"):
            verb, sign, ends = self.better, -1, (margin.high, margin.low)
        else:
            verb, sign, ends = self.worse, 1, (margin.low, margin.high)
        low, high = (self.number(end, sign) for end in ends)
        return f"{self.score} {verb}s by {self.points(sign * margin.fall)} ({low} to {high})"

    def edge(self, candidate: Candidate) -> str:
        """Returns the name of an edge, with its kind of cell where there are several."""
        kind = "" if len(self.supernet.space.kinds) == 1 else f"{candidate.kind} cell, "
        return f"{kind}edge {self.supernet.edge(candidate)}"


def sentences(found: Findings) -> list[str]:
    """Returns all sentences, the edges first."""
    words = Words(found.supernet)
    return [
        *(of_edge(edge, words) for edge in found.edges),
        *of_several(found, words),
        *of_agreement(found),
        *map(of_truth, found.truths),
    ]


def of_edge(edge: EdgeFinding, words: Words) -> str:
    """Returns the sentence about one edge of a derived cell."""
    name, operation = words.edge(edge.chosen), words.supernet.operation(edge.chosen)
    if edge.margin is not None:
        parts = [f"{name}: without {operation} {words.change(edge.margin)}"]
        parts += ["it could be left out"] if edge.margin.can_be_left_out else []
    elif words.supernet.has(edge.chosen):
        parts = [f"{name}: {operation} was chosen, without which nothing changes"]
    else:
        return f"{name}: {operation} was chosen in an earlier epoch, and the supernet does not have it any more"
    if edge.runner_up is not None:
        behind = words.number(edge.runner_up.behind)
        if float(behind) == 0:
            parts.append(f"{edge.runner_up.operation} is missed as much")
        else:
            more = "more" if edge.runner_up.behind < 0 else "less"
            parts.append(f"{edge.runner_up.operation} is missed {words.points(abs(edge.runner_up.behind))} {more}")
    return "; ".join(parts)


def of_several(found: Findings, words: Words) -> Iterator[str]:
    """Yields the sentences about operations that are taken away together."""
    if found.together is not None:
        count, kept = len(found.together.candidates), words.points(found.together.sum)
        yield (
            f"without all {count} operations that could be left out, {words.change(found.together.margin)}; "
            f"their margins add up to {kept}"
        )
    if found.one_by_one:
        limit = "1.0 point" if words.in_percent else f"{100 * TOLERATED:g}% of its value"
        gone = [step for step in found.one_by_one if step.margin.fall <= _tolerated(found)]
        whole = sum(edge.margin is not None for edge in found.edges)
        if not gone:
            yield f"{words.score} {words.worse}s by more than {limit} without the least missed operation already"
        else:
            last = gone[-1]
            yield (
                f"in the order of their margins, {len(last.candidates)} of {whole} operations can be taken away together "
                f"before {words.score} {words.worse}s by more than {limit}: {words.change(last.margin)}; "
                f"their margins add up to {words.points(last.sum)}"
            )


def _tolerated(found: Findings) -> float:
    return TOLERATED * (1 if found.supernet.in_percent else abs(found.score))


def of_agreement(found: Findings) -> Iterator[str]:
    """Yields the sentences about the agreement of the measures."""
    compared = [edge for edge in found.edges if edge.first]
    if compared:
        same = sum(len(set(edge.first.values())) == 1 for edge in compared)
        yield f"the four measures put the same operation first on {_of(same, len(compared), 'edge')}"
        for name in MEASURES:
            agreed = sum(edge.first[name] == found.supernet.operation(edge.chosen) for edge in compared)
            verb = "put" if name == "alphas" else "puts"
            yield f"{name} {verb} the chosen operation first on {_of(agreed, len(compared), 'edge')}"
    for kind, taus in found.taus.items():
        where = "" if len(found.taus) == 1 else f" of the {kind} cell"
        known = {pair: tau for pair, tau in taus.items() if tau is not None}
        if known:
            most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
            count = sum(one.kind == kind for one in found.supernet.candidates)
            said = f"over the {count} operations on the edges{where}, {_and(most)} agree most (Kendall's tau {known[most]:.2f})"
            yield said if len(known) == 1 else f"{said}, {_and(least)} least ({known[least]:.2f})"


def of_truth(truth: Truth) -> str:
    """Returns the sentence about the comparison with one truth of the table."""
    said = ", ".join(f"{name} {_tau(tau)}" for name, tau in truth.all.items())
    scale = "accuracy" if truth.scale == "accuracy" else "the rank of accuracy"
    return (
        f"Kendall's tau with the exact {truth.name} of {scale} in the table, over {len(truth.values)} operations on the edges: "
        f"{said}"
    )


def _tau(value: float | None) -> str:
    return "unknown, as all are equal" if value is None else f"{value:.2f}"


def _of(part: int, whole: int, name: str) -> str:
    return f"{part} of {whole} {name}{'' if whole == 1 else 's'}"


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
