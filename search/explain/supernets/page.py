"""The page on a trained supernet: why this cell?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.explain.supernets.findings import EdgeFinding, Findings
from search.explain.supernets.margins import CONFIDENCE, Margin
from search.explain.supernets.measures import GRADIENT, MEASURES, PERTURBATION, SHAPLEY, Values
from search.explain.supernets.plan import PERMUTATIONS
from search.explain.supernets.sentences import Words, of_agreement, of_edge, of_several, of_truth
from search.explain.supernets.trained import Candidate, TrainedSupernet
from supernet import Genotype, SearchSpace
from supernet.drawing.draw import draw_alphas
from training.report.charts import charts, raster, scale
from training.report.html import Markup, Page, details, element, facts, paragraph, table
from training.report.sections import drawn_genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR, _HALF = 150, 9  # width of the bar of a margin and half its height, in pixels
_WIDE, _LETTER, _ROW = 340, 6.4, 15  # a heat map: its width, that of a letter, the height of an operation


def explanation_page(found: Findings, genotype: Genotype, name: str, pictures: bool = True) -> Page:
    """Makes the page; `name` is that of the run."""
    supernet, words = found.supernet, Words(found.supernet)
    task, plan = supernet.task, found.plan
    page = Page(
        f"Why this cell? {name}",
        paragraph(
            "The supernet of the search, with the weights that it was trained to, has been measured again with parts of it "
            "taken away."
        ),
    )
    free = sum(edge.margin is not None and edge.margin.can_be_left_out for edge in found.edges)
    page.section(
        "In short",
        facts(
            {
                f"{task.scored_by.words} of the supernet": task.scored_by.written(task.scored_by.own(found.score)),
                "operations in the cell": len(found.edges),
                "of them could be left out": free,
                "passes of a batch": f"{found.images / plan.batch:,.0f}",
                "epochs of the search": f"{found.images / plan.of_epoch:.2f}",
            }
        ),
        element("ul", *(element("li", _begun(of_edge(edge, words))) for edge in found.edges)),
        drawn_genotype(genotype, pictures),
        paragraph(_numbering(supernet.space)),
    )
    page.section("Margins", *_margins(found, words))
    together = [paragraph(_begun(said), ".") for said in of_several(found, words)]
    if together:
        page.section("Leaving out several", *together, _one_by_one(found, words))
    page.section("Do the measures agree?", *_agreement(found))
    if found.truths:
        page.section("Is it true?", *_truth(found))
    page.section("How it was measured", *_method(found))
    return page


def _numbering(space: SearchSpace) -> str:
    """Returns what the numbers of edges are: those of a genotype's text, of which the drawing counts
    the nodes alone."""
    inputs, last = space.inputs, space.nodes - 1
    first = "0 is the input" if inputs == 1 else f"0 to {inputs - 1} are the inputs, the earlier cell first"
    nodes = f"{inputs} to {inputs + last} are the nodes, 0 to {last} in the drawing" if last else f"{inputs} is the node"
    return f"Edges are named as in the text of the genotype: {first}; {nodes}."


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# Margins


def _margins(found: Findings, words: Words) -> list[Markup]:
    supernet = found.supernet
    known = [edge.margin for edge in found.edges if edge.margin is not None]
    low, high = min((margin.low for margin in known), default=0.0), max((margin.high for margin in known), default=0.0)
    unit = "points" if words.in_percent else "score"
    parts: list[Markup] = [
        paragraph(
            f"The margin of an operation is the {words.worse} of {words.score} without it, on {found.examples:,} validation "
            f"images in {found.batches} batches; the interval, of {100 * CONFIDENCE:.0f}%, is over the batches. Where it "
            "covers 0, or lies below it, the operation could be left out."
        )
    ]
    for kind in supernet.space.kinds:
        rows = [_margin_row(edge, words, min(low, 0.0), max(high, 0.0)) for edge in found.edges if edge.chosen.kind == kind]
        heads = ["edge", "operation", f"margin, {unit}", "", "", "runner-up", *MEASURES]
        parts += [*_heading(kind), table(heads, rows, right=[2])]
        left_out = [one for one in found.left_out if one.best.kind == kind]
        if left_out:
            rows = [
                (supernet.edge(one.best), supernet.operation(one.best), words.number(one.fall))
                for one in sorted(left_out, key=lambda one: -one.fall)
            ]
            parts.append(
                details(
                    "the edges that the cell leaves out",
                    table(["edge", "operation missed most", f"{words.worse}, {unit}"], rows, right=[2]),
                )
            )
    parts.append(
        paragraph(
            "The runner-up is the operation on the same edge that is missed most beside the chosen one, with how much "
            "less it is missed; the last columns name the operation that each measure puts first."
        )
    )
    return parts


def _margin_row(edge: EdgeFinding, words: Words, low: float, high: float) -> Sequence[object]:
    operation, margin = words.supernet.operation(edge.chosen), edge.margin
    name = _unbroken(words.supernet.edge(edge.chosen))
    first = [edge.first.get(name) for name in MEASURES]
    marked = [None if name is None else _unbroken("the same") if name == operation else name for name in first]
    runner_up = None if edge.runner_up is None else f"{edge.runner_up.operation} ({words.number(edge.runner_up.behind)})"
    if margin is None:
        why = "gives nothing" if words.supernet.has(edge.chosen) else "not there any more"
        return [name, operation, None, None, _unbroken(why), runner_up, *marked]
    said = f"{words.number(margin.fall)} ({words.number(margin.low)} to {words.number(margin.high)})"
    free = "could be left out" if margin.can_be_left_out else ""
    return [name, operation, said, _bar(margin, low, high, said), _unbroken(free), runner_up, *marked]


def _unbroken(text: str) -> Markup:
    """Returns a text of a table that stays in one line."""
    return element("span", text, style="white-space:nowrap")


def _bar(margin: Margin, low: float, high: float, said: str) -> Markup:
    """Draws a margin with its interval on the scale from `low` to `high`."""

    def place(value: float) -> float:
        return round((value - low) / ((high - low) or 1) * (_BAR - 4) + 2, 1)

    zero, fall, ends = place(0), place(margin.fall), (place(margin.low), place(margin.high))
    colour = "var(--s6)" if margin.can_be_left_out else "var(--s0)"
    return element(
        "svg",
        element("title", said),
        element("rect", x=min(zero, fall), y=4, width=round(abs(fall - zero), 1), height=2 * (_HALF - 4), fill=colour),
        element("line", x1=ends[0], x2=ends[1], y1=_HALF, y2=_HALF, stroke="var(--ink)", stroke_width=1.2),
        *(element("line", x1=end, x2=end, y1=5, y2=2 * _HALF - 5, stroke="var(--ink)", stroke_width=1.2) for end in ends),
        element("line", x1=zero, x2=zero, y1=0, y2=2 * _HALF, stroke="var(--soft)"),
        viewBox=f"0 0 {_BAR} {2 * _HALF}", role="img", aria_label=said, style=f"width:{_BAR}px",
    )  # fmt: skip


def _one_by_one(found: Findings, words: Words) -> Markup:
    rows = [
        (
            f"{words.edge(step.candidates[-1])}: {words.supernet.operation(step.candidates[-1])}",
            f"{words.number(step.margin.fall)} ({words.number(step.margin.low)} to {words.number(step.margin.high)})",
            words.number(step.sum),
        )
        for step in found.one_by_one
    ]
    return table(["without this, too", words.worse, "sum of the margins"], rows, right=[1, 2])


def _heading(kind: str) -> list[Markup]:
    return [] if kind == "cell" else [element("h3", f"{kind} cell")]


# Agreement


def _agreement(found: Findings) -> list[Markup]:
    supernet = found.supernet
    parts = [paragraph(_begun(said), ".") for said in of_agreement(found)]
    for kind, taus in found.taus.items():
        rows = [
            [name, *(_tau(taus.get((name, other), taus.get((other, name)))) if name != other else None for other in MEASURES)]
            for name in MEASURES
        ]
        drawn = [
            heat_map(name, values, supernet, kind, [edge.chosen for edge in found.edges])
            for name, values in found.measures.items()
        ]
        parts += [*_heading(kind), table(["Kendall's tau", *MEASURES], rows, right=[1, 2, 3, 4]), charts(*drawn)]
    parts.append(
        paragraph(
            "Each picture has its own scale. An outlined field is the operation in the cell, a blank one is not there any more."
        )
    )
    return parts


def heat_map(title: str, values: Values, supernet: TrainedSupernet, kind: str, chosen: Sequence[Candidate]) -> Markup:
    """Draws a measure over the operations (rows) and edges (columns) of a kind of cell."""
    shown = sorted({one.column for one in values if one.kind == kind})
    own = {one: value for one, value in values.items() if one.kind == kind}
    grid = _grid(supernet, own)[:, shown].T
    low, high = (min(own.values()), max(own.values())) if own else (0.0, 1.0)
    names = [supernet.space.candidates[column] for column in shown]
    left = round(max(map(len, names), default=0) * _LETTER) + 8
    edges, top = len(supernet.space.edges), 40
    wide = (_WIDE - left) / edges
    # A value of 0 is a colour, too.
    filled = np.where(grid == 0, np.nextafter(0, 1), grid)
    image = element(
        "image", href=raster(filled, low, high), x=left, y=top, width=round(wide * edges, 1), height=_ROW * len(names),
        preserveAspectRatio="none", style="image-rendering:pixelated",
    )  # fmt: skip
    parts = [image]
    for row, name in enumerate(names):
        parts.append(element("text", name, x=left - 5, y=top + _ROW * row + 11, text_anchor="end", style="font-size:11px"))
    for edge, (source, target) in enumerate(supernet.space.edges):
        x, y = round(left + wide * (edge + 0.5), 1), top - 6
        text = f"{source}→{target}"
        parts.append(element("text", text, x=x, y=y, transform=f"rotate(-60 {x} {y})", style="font-size:11px"))
    for one, value in own.items():
        outlined = one in chosen
        said = f"{supernet.edge(one)}, {supernet.operation(one)}: {value:.4g}"
        parts.append(
            element(
                "rect", element("title", said), x=round(left + wide * one.edge + 0.5, 1),
                y=top + _ROW * shown.index(one.column) + 0.5, width=round(wide - 1, 1), height=_ROW - 1, fill="transparent",
                stroke="var(--ink)" if outlined else None, stroke_width=2 if outlined else None,
            )
        )  # fmt: skip
    drawn = element("svg", *parts, viewBox=f"0 0 {_WIDE + 12} {top + _ROW * len(names) + 2}", role="img", aria_label=title)
    return element("figure", element("h3", title), element("div", scale(low, high), class_="legend"), drawn)


def _grid(supernet: TrainedSupernet, values: Values) -> np.ndarray:
    """Returns a measure of one kind of cell as [edges, candidates], NaN where there is none."""
    grid = np.full((len(supernet.space.edges), len(supernet.space.candidates)), np.nan)
    for one, value in values.items():
        grid[one.edge, one.column] = value
    return grid


# Truth


def _truth(found: Findings) -> list[Markup]:
    heads = ["exact", "of", "operations", *MEASURES]
    rows = []
    for truth in found.truths:
        taus: Mapping[str, Mapping[str, float | None]] = {f"all {len(truth.values)}": truth.all, "of the cell": truth.chosen}
        rows += [[truth.name, truth.scale, those, *map(_tau, tau.values())] for those, tau in taus.items()]
    return [
        paragraph(
            "The table has the accuracy of every architecture of the space, each trained alone. The exact operation importance "
            "of an operation is the mean fall as another one takes its place in the derived cell; its exact SHAP value is the "
            "part that its edge has, with that operation, in what the cell has over an architecture drawn at random. Kendall's "
            "tau is 1 if a measure puts the operations in the same order, 0 if it says nothing, -1 in the opposite order:"
        ),
        table(heads, rows, right=[3, 4, 5, 6]),
        *(paragraph(_begun(of_truth(truth)), ".") for truth in found.truths),
    ]


def _tau(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


# Method


def _method(found: Findings) -> list[Markup]:
    plan = found.plan
    rows = [
        ("margins", f"{found.examples:,} images in {found.batches} batches"),
        (PERTURBATION, f"{plan.ranking:,} images, the same without each operation"),
        (SHAPLEY, f"{found.permutations} of at most {PERMUTATIONS} permutations, {plan.permutation:,} images each, in which "
                  f"{found.reached:,} operations left before the score had fallen to half"),
        (GRADIENT, f"{plan.gradient:,} images"),
    ]  # fmt: skip
    return [
        table(["measured", "on"], rows),
        paragraph(
            f"{found.images:,} images went through the supernet, as much as {found.images / plan.of_epoch:.2f} epochs of the "
            f"search; at most {plan.most:,} were allowed. An operation that is taken away has the weight 0 in all cells of its "
            "kind, and the others keep theirs. Batch norm takes the statistics of each batch. All of this is about the "
            "supernet; a cell that is trained alone may make up for what is missing."
        ),
        *_of_none(found),
    ]


def _of_none(found: Findings) -> list[Markup]:
    inert = any(map(found.supernet.is_inert, found.supernet.candidates))
    said = "Without none, whose output is 0, nothing changes: but for alphas, all measures of it are 0."
    return [paragraph(said)] if inert else []


# TensorBoard


def figures(found: Findings) -> dict[str, "Figure"]:
    """Returns figures by tag: each measure of each kind of cell, and the margins with their
    intervals."""
    supernet = found.supernet
    space = supernet.space
    drawn = {}
    for kind in space.kinds:
        for name, values in found.measures.items():
            grid = _grid(supernet, {one: value for one, value in values.items() if one.kind == kind})
            drawn[f"{name.replace(' ', '_')}/{kind}"] = draw_alphas(grid, space.edges, space.candidates, f"{name}, {kind}")
    return drawn | {"margins": _margins_drawn(found)}


def _margins_drawn(found: Findings) -> "Figure":
    from matplotlib.figure import Figure

    words = Words(found.supernet)
    known = [(edge, edge.margin) for edge in found.edges if edge.margin is not None]
    drawn = Figure((7, 0.8 + 0.26 * max(1, len(known))), layout="constrained", facecolor="white")
    axes = drawn.add_subplot()
    factor = 100 if words.in_percent else 1
    for row, (_, margin) in enumerate(known):
        colour = "#5f6b7a" if margin.can_be_left_out else "#2563b0"
        axes.barh(row, factor * margin.fall, color=colour, height=0.6)
        axes.plot([factor * margin.low, factor * margin.high], [row, row], color="#1f2937", linewidth=1.2)
    labels = [f"{words.edge(edge.chosen)}: {found.supernet.operation(edge.chosen)}" for edge, _ in known]
    axes.set_yticks(range(len(known)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#9ca3af", linewidth=1)
    axes.set_xlabel(
        f"{words.worse} of {words.score} without the operation" + (", points" if words.in_percent else ""), fontsize=8
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
