"""The page of an explanation: what the network looks at, and how far that can be trusted."""

from collections.abc import Sequence
from pathlib import Path

import torch

from base.texts import label
from retrain.evaluation.networks import Run
from retrain.explain.attributions import METHODS
from retrain.explain.faithfulness import POINTS, RANDOM_ORDERS
from retrain.explain.findings import Findings, largest_error
from retrain.explain.pictures import picture_of, picture_of_map, picture_of_shares
from retrain.explain.sanity import THRESHOLD
from training.report.charts import Curve, chart, charts
from training.report.html import Markup, Page, block, details, element, facts, figure, join, paragraph, percent, table, warning
from training.report.sections import commands, environment

_MOST_GATES = 12
"""Modules that attend of which the weights are shown, each."""


def explanation_page(run: Run, found: Findings, command: Sequence[str | Path], device: torch.device) -> Page:
    """Makes the page; `command` is the command line that made it, without `python -m`."""
    trusted = [
        name for name, method in found.methods.items() if not method.is_worthless and found.gain_over_random(name)[1] > 0
    ]
    page = Page(
        f"What the network looks at: {label(run.path.resolve().name)}",
        paragraph(
            f"{len(found.chosen.names)} of {found.seen:,} images from {found.source}, explained by {len(found.methods)} "
            "methods. ",
            element("code", "python -m retrain.explain"),
        ),
    )
    page.section(
        "Result",
        facts(
            {
                "accuracy": None if found.accuracy is None else percent(found.accuracy),
                "methods to be trusted here": f"{len(trusted)} of {len(found.methods)}",
                "fidelity of the tree": None if found.surrogate is None else percent(found.surrogate.fidelity),
            }
        ),
        *(_said(found, name, said) for name, said in zip(found.methods, found.sentences(), strict=True)),
        *map(paragraph, found.notes),
    )
    page.section("Images", *_images(run, found))
    page.section("Do the marked pixels matter?", *_faithfulness(found))
    page.section("Does the map show the network?", *_sanity(found))
    if len(found.methods) > 1:
        page.section("Do the methods agree?", *_agreement(found))
    if found.attention:
        page.section("Attention", *_attention(run, found))
    page.section("A tree in its place", *_tree(found))
    page.section("How to repeat it", commands(command), paragraph(f"Seed {found.settings.seed}."), environment(device))
    return page


def _is_trusted(found: Findings, name: str) -> bool:
    return not found.methods[name].is_worthless and found.gain_over_random(name)[1] > 0


def _said(found: Findings, name: str, said: str) -> Markup:
    return warning(said) if found.methods[name].is_worthless else paragraph(said)


def _images(run: Run, found: Findings) -> list[Markup]:
    chosen, form = found.chosen, run.trained.format
    grad_cam = f", of cell {found.cell} of {found.cells} (from 0) for Grad-CAM" if "grad_cam" in found.methods else ""
    parts = [
        paragraph(
            f"Each map explains the logit of the predicted class{grad_cam}: red speaks for it, blue against it. The strongest "
            "hundredth of a map has the full colour, so that colours are not comparable between maps. An absent pixel has the "
            "mean colour of the training images."
        )
    ]
    for place, name in enumerate(chosen.names):
        predicted = label(found.class_names[int(chosen.predicted[place])])
        sure = f"“{predicted}” ({chosen.probabilities[place]:.1%})"
        right = chosen.is_right(place)
        if chosen.labels is None:
            said = f"Predicted: {sure}"
        else:
            truth = label(found.class_names[int(chosen.labels[place])])
            said = f"“{truth}”, recognised as {sure}" if right else f"“{truth}”, taken for {sure}"
        maps = [
            figure(picture_of_map(method.maps[place], f"{METHODS[one].title} of {name}"), METHODS[one].title)
            for one, method in found.methods.items()
        ]
        shown = figure(picture_of(chosen.pixels[place], form, name), "image")
        parts.append(element("h3", said))
        parts.append(element("p", label(name, 80), class_="name"))
        parts.append(element("div", shown, *maps, class_="tiles"))
    return parts


def _faithfulness(found: Findings) -> list[Markup]:
    rows: list[tuple[object, ...]] = [
        (
            METHODS[name].title,
            f"{float(method.curves.deletion_area.mean()):.3f}",
            f"{float(method.curves.insertion_area.mean()):.3f}",
            "{:+.3f} ({:+.3f} to {:+.3f})".format(*found.gain_over_random(name)),
            "-" if method.errors is None else "{:.2g}, {:.2%}".format(*largest_error(method)),
        )
        for name, method in found.methods.items()
    ]
    areas = (float(area.mean()) for area in (found.random.deletion_area, found.random.insertion_area))
    rows.append(("random order", *(f"{area:.3f}" for area in areas), "-", "-"))
    columns = ["", "deletion", "insertion", "gain over random", "completeness error"]
    drawn = [
        chart(
            title,
            [
                Curve(METHODS[name].title if name in METHODS else name, _points(getattr(curves, what)))
                for name, curves in [*((name, one.curves) for name, one in found.methods.items()), ("random", found.random)]
            ],
            across=f"pixels, % {done}",
            last=False,
        )
        for title, what, done in (("deletion", "deletion", "taken away"), ("insertion", "insertion", "put in"))
    ]
    return [
        paragraph(
            "Areas below the probability of the predicted class while pixels are taken away (deletion: less is better) or put "
            "into the blurred image (insertion: more is better), the most marked first. The gain is insertion less deletion "
            f"beyond that of {RANDOM_ORDERS} random orders, with the 95% interval over the images. The completeness error is "
            "the largest difference between the sum of a map and the logit less that of the mean colour, and the median share "
            "of it; the other methods claim no such sum."
        ),
        table(columns, rows, right=range(1, 5)),
        charts(*drawn),
    ]


def _points(curve: torch.Tensor) -> list[tuple[float, float]]:
    return [(100 * point / (POINTS - 1), value) for point, value in enumerate(curve.mean(0).tolist())]


def _sanity(found: Findings) -> list[Markup]:
    rows = [
        (METHODS[name].title, *(None if value is None else f"{value:.2f}" for value in method.sanity))
        for name, method in found.methods.items()
    ]
    return [
        paragraph(
            f"Rank correlation of the maps, without their signs, with those of a network whose weights are random from the "
            f"head downwards; mean over {found.checked} images. A map of the network changes. One that still correlates by "
            f"{THRESHOLD:g} or more where all weights are random is worthless: it shows the image."
        ),
        table(["random", *found.stages], rows, right=range(1, 1 + len(found.stages))),
    ]


def _agreement(found: Findings) -> list[Markup]:
    names = list(found.methods)
    rows = [
        (
            METHODS[name].title,
            *("1" if name == other else _number(found.agreement[name][other]) for other in names),
        )
        for name in names
    ]
    columns = ["", *(METHODS[name].title for name in names)]
    count = found.settings.patches
    return [
        paragraph(f"Rank correlation of the maps over {count} by {count} patches, mean over the images."),
        table(columns, rows, right=range(1, 1 + len(names))),
    ]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _attention(run: Run, found: Findings) -> list[Markup]:
    parts: list[Markup] = []
    shares = {name: weights for name, weights in found.attention.items() if weights.ndim == 3}
    gates = {name: weights for name, weights in found.attention.items() if weights.ndim == 2}
    if shares:
        parts.append(
            paragraph(
                "The attention that each position receives, of each module that attends to positions: bright is the most, dark "
                "the least, each map in its own range."
            )
        )
        for place, name in enumerate(found.chosen.names):
            shown = figure(picture_of(found.chosen.pixels[place], run.trained.format, name), "image")
            maps = [
                figure(picture_of_shares(weights[place], f"attention of {module} to {name}"), module)
                for module, weights in list(shares.items())[:_MOST_GATES]
            ]
            parts.append(element("div", shown, *maps, class_="tiles"))
    if gates:
        rows = []
        for module, weights in gates.items():
            low, high = float(weights.min()), float(weights.max())
            between = float(weights.std(0, correction=0).mean()) if len(weights) > 1 else 0.0
            drawn = figure(picture_of_shares(weights, f"gates of {module}"))
            rows.append((module, weights.shape[1], f"{low:.2f} to {high:.2f}", f"{between:.3f}", drawn))
        parts.append(
            paragraph(
                "The gates of each module that attends to channels: their range, their deviation between images (0: it does "
                "the same to every image), and all of them, an image a row and a channel a column."
            )
        )
        columns = ["module", "channels", "gates", "between images", ""]
        parts.append(element("div", table(columns, rows, right=range(1, 4)), class_="gates"))
    if len(shares) > _MOST_GATES:
        parts.append(paragraph(f"The first {_MOST_GATES} of {len(shares)} modules are shown."))
    return parts


def _tree(found: Findings) -> list[Markup]:
    said, tree = found.said_of_tree(), found.surrogate
    parts = [warning(said) if tree is None or not tree.is_better else paragraph(said)]
    if tree is not None:
        used = f"It asks for {len(tree.used)} of {tree.features} penultimate features: {', '.join(tree.used)}."
        parts += [paragraph(used), details("the tree", block(tree.rules))]
    return [join(*parts)]
