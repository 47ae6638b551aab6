"""Explains a search that samples architectures: functional ANOVA over its trials, and the motifs
that separate good ones from bad."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.checks import FieldError, InputError
from search.explain import decomposition
from search.explain.explanation import ExplainOptions, Explanation
from search.explain.landscape import COLUMNS, landscape
from search.explain.tables.exact import Measure, analyse
from search.explain.tables.forest import (
    DEFAULT_TREES,
    LEAST_TREES,
    ForestEffects,
    Share,
    forest_effects,
    seconds_of_a_tree,
)
from search.explain.tables.motifs import Difference, Motif, motifs
from search.explain.tables.parts import counted, draw_bars, draw_heat_map, interval, long, percent, unbroken
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingRun
from search.sampling.scores.chosen import TABLE_SCORE
from training.report.html import Markup, Page, details, drawing, duration, element, facts, figure, paragraph, table, warning
from training.run.monitor import Bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_TRIALS = 30
"""Architectures that a search has evaluated wholly, at least, for an explanation."""
_MOST_MOTIFS = 15
_MOST_PAIRS = 8
_SURE = 0.05
_UNEXPLAINED = 0.3  # R^2 below which the page warns
_UNIFORM = ("random",)
"""Methods that draw all architectures with the same chance."""


@dataclass(frozen=True)
class Truth:
    """The exact effects in a table, and how well those of the trials agree."""

    main: np.ndarray
    total: np.ndarray
    tau_main: float | None
    tau_total: float | None
    """Kendall's tau over the decisions; None where it is not defined."""
    covered: int
    """Effects, main and total, whose interval has the exact one."""


@dataclass(frozen=True)
class Part:
    """The effects on the score, or on its rank."""

    name: str
    effects: ForestEffects
    truth: Truth | None


def explain(run: SamplingRun, options: ExplainOptions) -> Explanation:
    """Explains a finished search by its trials.

    The cost is in trees: half of them for the score, half for its rank. Raises InputError for a
    search with too few trials, a budget of too few trees, or a table of another space.
    """
    trees = DEFAULT_TREES if options.budget is None else options.budget // 2
    if trees < LEAST_TREES:
        raise FieldError(
            "budget",
            f"{options.budget} trees are too few: score and rank each take {LEAST_TREES}; give at least {2 * LEAST_TREES}",
        )
    if options.data:
        name = next(iter(options.data))
        raise InputError(f"--data.{name}: the explanation of a sampling search reads no images; leave it out")
    encoding = run.encoding
    slots, names = decisions(encoding)
    exact = None if options.table is None else analyse(landscape(options.table, options.column, encoding))
    scores_of: dict[Genome, float] = {}
    for evaluation in run.evaluations:
        if evaluation.share == 1:
            scores_of.setdefault(encoding.of_genotype(evaluation.genotype), run.scored_by.maximised(evaluation.score))
    genomes, scores = list(scores_of), np.array(list(scores_of.values()))
    if len(genomes) < LEAST_TRIALS:
        raise InputError(
            f"{run.path}: {counted(len(genomes), 'different architecture')} evaluated wholly, and {LEAST_TRIALS} are needed at "
            "least; search with more evaluations"
        )
    if scores.min() == scores.max():
        raise InputError(f"{run.path}: all {len(scores)} architectures have the same score, so that nothing is to be explained")
    choices = np.array([encoding.values(genome) for genome in genomes])
    counts = [len(known) for known in names]
    seconds = 2 * trees * seconds_of_a_tree(choices, counts, scores)
    print(f"{2 * trees} trees over {counted(len(genomes), 'architecture')}, about {duration(seconds)}", flush=True)
    notes = _other_quantity(run, options)
    for note in notes:
        print(f"warning: {note}", flush=True)
    began = time.monotonic()
    ranked = decomposition.ranks(scores)
    shown = np.array([run.scored_by.own(score) for score in scores])
    parts = []
    with Bar(2 * trees, description="explain") as bar:
        for number, (name, values) in enumerate((("score", shown), ("rank", ranked))):
            found = forest_effects(choices, counts, values, trees, options.seed + number, bar.advance)
            parts.append(Part(name, found, None if exact is None else _compare(found, exact[number])))
    known = [
        [f"{name} on {slot}" if " to " in slot else f"{slot}: {name}" for name in of]
        for slot, of in zip(slots, names, strict=True)
    ]
    compared = motifs(encoding, genomes, known, shown, ranked)
    is_uniform = run.method.name in _UNIFORM
    said = [*_sentences(run, parts, slots, len(genomes), is_uniform), *_motif_sentences(compared)]
    figures = _figures(parts, slots, names, compared) if options.pictures else {}
    numbers = {
        "kind": "sampling",
        "method": run.method.name,
        "space": encoding.space.name,
        "scored_by": run.config.evaluate,
        "evaluations": len(run.evaluations),
        "architectures": len(genomes),
        "drawn_uniformly": is_uniform,
        "trees": trees,
        "seed": options.seed,
        "decisions": {slot: list(of) for slot, of in zip(slots, names, strict=True)},
        "measures": {part.name: _numbers(part, slots, names) for part in parts},
        "motifs": [_motif_numbers(motif) for motif in compared],
    }
    if options.table is not None:
        numbers |= {"table": options.table.fingerprint, "column": options.column}
    page = Page(
        f"Why: {run.method.name}",
        paragraph(f"An explanation of the search in {run.path}, in the space {encoding.space.name}, from its own trials."),
    )
    page.section(
        "In short",
        facts(
            {
                "architectures": f"{len(genomes):,}",
                f"best {run.scored_by.words}": run.scored_by.written(run.scored_by.own(scores.max())),
                "explained by the forest": percent(max(parts[0].effects.explained, 0)),
                "of the rank": percent(max(parts[1].effects.explained, 0)),
                "time": duration(time.monotonic() - began),
            }
        ),
        *map(warning, notes),
        *_warnings(run, parts, is_uniform),
        *map(paragraph, said),
    )
    for part in parts:
        page.section(
            "Effects on the score" if part.name == "score" else "Effects on its rank", *_shown(part, slots, names, figures)
        )
    page.section("Motifs", *_shown_motifs(compared, figures))
    return Explanation(page, numbers, said, figures)


def decisions(encoding: Encoding) -> tuple[list[str], list[list[str]]]:
    """Returns the names of the decisions of an architecture, in the order of the variables of the
    encoding, and the names of the options of each."""
    space = encoding.space
    operations = [space.candidates[column] for column in encoding.operations]
    slots: list[str] = []
    options: list[list[str]] = []
    variables = iter(encoding.variables)
    for node in encoding.nodes:
        sources = [space.edges[place % len(space.edges)][0] for place in node.places]
        where = "" if len(space.kinds) == 1 else f"{node.kind} "
        choices = list(itertools.combinations(sources, node.inputs))
        if len(choices) > 1:
            next(variables)
            slots.append(f"{where}inputs of {node.target}")
            options.append([" and ".join(map(str, chosen)) for chosen in choices])
        for number in range(node.inputs):
            variable = next(variables)
            of = f"{where}{variable.name.split('/')[-1]} input of {node.target}"
            slots.append(of if len(choices) > 1 else f"{where}{sources[number]} to {node.target}")
            options.append(operations)
    return slots, options


def _compare(found: ForestEffects, exact: Measure) -> Truth:
    from scipy.stats import kendalltau  # slow to import

    def tau(shares: Sequence[Share], truths: np.ndarray) -> float | None:
        value = float(kendalltau([share.value for share in shares], truths).statistic)
        return value if np.isfinite(value) else None

    pairs = [*zip(found.main, exact.main, strict=True), *zip(found.total, exact.total, strict=True)]
    covered = sum(bool(share.low <= truth <= share.high) for share, truth in pairs)
    return Truth(exact.main, exact.total, tau(found.main, exact.main), tau(found.total, exact.total), covered)


# In words


def _as_text(share: Share) -> str:
    return interval(100 * share.value, 100 * share.low, 100 * share.high, unit="%")


def _sentences(run: SamplingRun, parts: Sequence[Part], slots: Sequence[str], count: int, is_uniform: bool) -> list[str]:
    said = [
        f"{run.method.name} evaluated {count:,} different architectures wholly, with scores from: {run.config.evaluate}; "
        + ("they were drawn uniformly." if is_uniform else "it drew them where it expected good ones.")
    ]
    for part in parts:
        found = part.effects
        first = int(np.argmax([share.value for share in found.total]))
        alone = int(np.argmax([share.value for share in found.main]))
        said += [
            f"The decision {slots[first]} takes part in the most variance of the {part.name}: {_as_text(found.total[first])}.",
            f"By itself {slots[alone]} has the largest part in it: {_as_text(found.main[alone])}.",
        ]
        without = [slot for slot, share in zip(slots, found.main, strict=True) if share.low == 0]
        if len(without) == len(slots):
            said.append(f"No decision has an effect by itself that is surely above 0 on the {part.name}.")
        elif without:
            said.append(f"Without an effect by itself that is surely above 0 on the {part.name}: {', '.join(without)}.")
        if part.truth is not None:
            taus = [("main", part.truth.tau_main), ("total", part.truth.tau_total)]
            told = " and ".join(f"{tau:.2f} over the {name} effects" for name, tau in taus if tau is not None)
            said.append(
                f"Of the {'accuracy' if part.name == 'score' else 'rank'} in the table the exact effect is within the interval "
                f"for {part.truth.covered} of {2 * len(slots)} effects" + (f"; Kendall's tau is {told}." if told else ".")
            )
    return said


def _motif_sentences(compared: Sequence[Motif]) -> list[str]:
    sure = [motif for motif in compared if motif.adjusted <= _SURE]
    if not compared:
        return ["No motif is in enough architectures to be compared."]
    said = [f"{len(sure):,} of {len(compared):,} motifs separate good from bad (at most {100 * _SURE:g}% of them by chance)."]
    for words, chosen in (
        ("better", [motif for motif in sure if motif.rank.value > 0]),
        ("worse", [motif for motif in sure if motif.rank.value < 0]),
    ):
        if chosen:
            motif = chosen[0]
            sign = 1 if motif.rank.value > 0 else -1
            low, high = sorted((sign * motif.rank.low, sign * motif.rank.high))
            value = interval(sign * motif.rank.value, low, high)
            said.append(f"Architectures with {motif.name} rank {value} points of 100 {words} than those without.")
    return said


def _other_quantity(run: SamplingRun, options: ExplainOptions) -> list[str]:
    """Returns a sentence where the column of the table is not what the search was scored by."""
    is_table = run.config.evaluate == "table"
    if options.table is None or (is_table and COLUMNS[options.column] == TABLE_SCORE.name):
        return []
    scores = next((name for name, of in COLUMNS.items() if is_table and of == TABLE_SCORE.name), None)
    return [
        f"The exact effects are those on {options.column} of the table, and the search was scored by another quantity, "
        f"{run.scored_by.words}; they may differ for that reason alone"
        + (f" (--column {scores} has the scores)." if scores else ".")
    ]


def _warnings(run: SamplingRun, parts: Sequence[Part], is_uniform: bool) -> list[Markup]:
    said = []
    if not is_uniform:
        said.append(
            warning(
                f"{run.method.name} does not draw architectures uniformly. Effects are those on an architecture that is drawn "
                "uniformly, as far as the trials tell of it; the intervals do not know of the regions that it left out."
            )
        )
    weak = [part for part in parts if part.effects.explained < _UNEXPLAINED]
    if weak:
        told = " and ".join(f"{percent(max(part.effects.explained, 0))} of the {part.name}" for part in weak)
        said.append(
            warning(f"The forest explains only {told} of architectures that it has not seen; take the effects with care.")
        )
    return said


# As numbers


def _numbers(part: Part, slots: Sequence[str], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    found, truth = part.effects, part.truth
    numbers: dict[str, Any] = {
        "variance": found.variance,
        "explained": found.explained,
        "main": {slot: asdict(share) for slot, share in zip(slots, found.main, strict=True)},
        "total": {slot: asdict(share) for slot, share in zip(slots, found.total, strict=True)},
        "pairs": {" with ".join(slots[slot] for slot in sorted(pair)): asdict(share) for pair, share in found.pairs.items()},
        "means": {
            slot: dict(zip(of, map(float, means), strict=True))
            for slot, of, means in zip(slots, names, found.means, strict=True)
        },
    }
    if truth is not None:
        numbers["exact"] = {
            "main": dict(zip(slots, map(float, truth.main), strict=True)),
            "total": dict(zip(slots, map(float, truth.total), strict=True)),
            "kendall_tau_main": truth.tau_main,
            "kendall_tau_total": truth.tau_total,
            "within_interval": truth.covered,
        }
    return numbers


def _motif_numbers(motif: Motif) -> dict[str, Any]:
    return asdict(motif)


# As parts of the page


def _shown(part: Part, slots: Sequence[str], names: Sequence[Sequence[str]], figures: Mapping[str, "Figure"]) -> list[Markup]:
    found, truth = part.effects, part.truth
    exact: list[list[object]] = [[] for _ in slots]
    if truth is not None:
        exact = [[percent(main), percent(total)] for main, total in zip(truth.main, truth.total, strict=True)]
    columns = ["decision", "main effect", "total effect", *(["exact main", "exact total"] if truth else [])]
    rows = [
        (unbroken(slot), _as_text(main), _as_text(total), *known)
        for slot, main, total, known in zip(slots, found.main, found.total, exact, strict=True)
    ]
    parts = [
        table(columns, rows, right=range(1, len(columns))),
        *_drawn(figures, f"effects/{part.name}", f"Effects of each decision on the {part.name}"),
        paragraph(
            f"Shares of the variance of the {part.name}, with intervals of 95% by bootstrap over the trials. A total "
            f"effect has all interactions of a decision, those that the forest cannot tell included: it predicts "
            f"{percent(max(found.explained, 0))} of the variance for architectures that it has not seen."
        ),
    ]
    pairs = sorted(found.pairs.items(), key=lambda one: -one[1].value)[:_MOST_PAIRS]
    told = [(" with ".join(slots[slot] for slot in sorted(pair)), _as_text(share)) for pair, share in pairs if share.value > 0]
    if told:
        parts.append(
            details("the largest interactions of two", table(["decisions", "share of the variance"], told, right=(1,)))
        )
    lines = []
    for slot, of, means in zip(slots, names, found.means, strict=True):
        order = np.argsort(-means)
        lines.append((unbroken(slot), long(", ".join(f"{of[option]} {means[option]:.4g}" for option in order.tolist()))))
    parts.append(details(f"the mean {part.name} with each option", table(["decision", "options, the best first"], lines)))
    parts += _drawn(figures, f"means/{part.name}", f"Mean {part.name} with each operation")
    return parts


def _shown_motifs(compared: Sequence[Motif], figures: Mapping[str, "Figure"]) -> list[Markup]:
    if not compared:
        return [paragraph("No motif is in enough architectures to be compared.")]
    parts = [
        paragraph(
            "The mean score of the trials with a motif and of those without, and the difference of their ranks (0 to 100) with "
            "intervals of 95%. The last column is the p-value of that difference, adjusted for the number of motifs "
            "(Benjamini & Hochberg 1995)."
        )
    ]
    for heading, chosen in (
        ("Single decisions and structure", [motif for motif in compared if not motif.is_pair]),
        ("Pairs of decisions", [motif for motif in compared if motif.is_pair]),
    ):
        if chosen:
            parts += [element("h3", heading), _motif_table(chosen[:_MOST_MOTIFS])]
    return [*parts, *_drawn(figures, "motifs", "Differences in rank with and without each motif")]


def _motif_table(chosen: Sequence[Motif]) -> Markup:
    def text(one: Difference) -> str:
        return interval(one.value, one.low, one.high)

    return table(
        ["motif", "trials", "mean with", "mean without", "difference in rank", "adjusted p"],
        [
            (
                long(motif.name),
                f"{motif.count:,}",
                f"{motif.mean_with:.4g}",
                f"{motif.mean_without:.4g}",
                text(motif.rank),
                f"{motif.adjusted:.2g}",
            )
            for motif in chosen
        ],
        right=range(1, 6),
    )


def _drawn(figures: Mapping[str, "Figure"], name: str, description: str) -> list[Markup]:
    return [figure(drawing(figures[name], description))] if name in figures else []


def _figures(
    parts: Sequence[Part], slots: Sequence[str], names: Sequence[Sequence[str]], compared: Sequence[Motif]
) -> dict[str, "Figure"]:
    found = {}
    for part in parts:
        groups = {
            label: [(100 * share.value, 100 * share.low, 100 * share.high) for share in shares]
            for label, shares in (("main", part.effects.main), ("total", part.effects.total))
        }
        found[f"effects/{part.name}"] = draw_bars(slots, groups, f"% of the variance of the {part.name}")
        # Inputs have options of their own, which the page lists.
        lists = [tuple(of) for of in names]
        operations = max(lists, key=lists.count)
        rows = [row for row, of in enumerate(lists) if of == operations]
        means = np.stack([part.effects.means[row] for row in rows])
        form = "{:.3g}" if part.name == "score" else "{:.1f}"
        found[f"means/{part.name}"] = draw_heat_map([slots[row] for row in rows], operations, means, f"mean {part.name}", form)
    shown = [motif for motif in compared if not motif.is_pair][:_MOST_MOTIFS]
    if shown:
        bars = [(motif.rank.value, motif.rank.low, motif.rank.high) for motif in shown]
        found["motifs"] = draw_bars([motif.name for motif in shown], {"rank": bars}, "difference in rank, 0 to 100")
    return found
