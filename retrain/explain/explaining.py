"""All that an explanation takes, from a network and images to findings."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from base.checks import FieldError, InputError
from base.seeds import derive_seed
from ops.attention import attention_maps
from retrain.evaluation.networks import Run
from retrain.explain.agreement import agreement, is_flat, mean, rank_correlation
from retrain.explain.attributions import METHODS, Settings, Subject
from retrain.explain.examples import Examples, choose
from retrain.explain.faithfulness import POINTS, RANDOM_ORDERS, completeness, curves, random_curves
from retrain.explain.findings import Chosen, Findings, MethodFindings
from retrain.explain.path import MOST_POINTS
from retrain.explain.sanity import randomised, stages
from retrain.explain.surrogate import Surrogate, feature_names, fit_surrogate, outputs_and_features
from retrain.weights import WEIGHTS_FILE
from supernet.discrete import DiscreteCell, DiscreteNetwork
from training.hardware import move_to

_AT_ONCE = 64
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """What is to be explained, and how."""

    methods: tuple[str, ...]
    settings: Settings
    each: int = 1
    """Images of each class that the network recognises, and as many that it does not."""
    most: int = 24
    """Images that are explained at most."""
    checked: int = 8
    """Images of these that the sanity check is made with."""
    depth: int = 4
    """Questions in a row that the surrogate asks at most."""

    def check(self, run: Run) -> None:
        """Raises FieldError for settings that do not fit the network of a run."""
        _, height, width = run.trained.format.shape
        self.settings.check(len(run.trained.network.cells), height, width)
        if self.checked < 1:
            raise FieldError("checked", f"must be at least 1 image, not {self.checked}")

    def passes(self, run: Run, explained: int) -> dict[str, int]:
        """Returns the number of images that go through the network, by what it is for."""
        _, height, width = run.trained.format.shape
        each = {name: METHODS[name].passes(self.settings, height, width) for name in self.methods}
        checks = min(self.checked, explained) * len(stages(run.trained.network)) * sum(each.values())
        if self.settings.complete and "integrated_gradients" in each:
            each["integrated_gradients"] = MOST_POINTS
        return {
            **{METHODS[name].title: explained * count for name, count in each.items()},
            "deletion and insertion": explained * 2 * POINTS * (len(each) + RANDOM_ORDERS),
            "random weights": checks,
        }


@dataclass(frozen=True)
class Seen:
    """What the network says of all images that are looked through."""

    outputs: Tensor
    """[N, classes]"""
    features: Tensor | None
    """Penultimate features, [N, F]."""
    chosen: Tensor
    """Places of the images that are explained, [B]."""

    @property
    def predicted(self) -> Tensor:
        return self.outputs.argmax(1)


def look_through(run: Run, examples: Examples, plan: Plan, device: torch.device, advance: Advance | None = None) -> Seen:
    """Runs the network over all images and chooses those that are explained.

    Raises InputError for a network whose logits are not finite.
    """
    network = run.trained.network
    move_to(network, device)
    network.eval()
    outputs, features = outputs_and_features(network, _normalised(run, examples.pixels, device), advance)
    if not outputs.isfinite().all():
        raise InputError(f"{run.path / WEIGHTS_FILE}: gives logits that are NaN or infinite; the training had diverged")
    return Seen(outputs, features, choose(outputs.argmax(1), examples.labels, plan.each, plan.most, plan.settings.seed))


def _normalised(run: Run, pixels: Tensor, device: torch.device) -> Iterator[Tensor]:
    for part in pixels.split(_AT_ONCE):
        yield run.trained.format.normalised(part.to(device))


def explain(run: Run, examples: Examples, seen: Seen, plan: Plan, advance: Advance) -> Findings:
    """Makes the maps of the chosen images and all that says how far they can be trusted.

    `advance` is called with the number of images that have gone through the network.
    """
    network, settings = run.trained.network, plan.settings
    device = next(network.parameters()).device
    chosen, names = seen.chosen, run.trained.format.class_names
    pixels = examples.pixels[chosen]
    inputs = torch.cat(list(_normalised(run, pixels, device)))
    predicted = seen.predicted[chosen]
    targets = predicted.to(device)
    subject = Subject(network, settings, advance)
    maps = {name: subject.maps(name, inputs, targets) for name in plan.methods}
    curved = {name: curves(network, inputs, targets, found, settings.seed, advance) for name, found in maps.items()}
    at_random = random_curves(network, inputs, targets, settings.seed, advance)
    checked = _spread(len(inputs), plan.checked)
    cascade, correlations = _sanity(subject, maps, inputs, targets, checked)
    methods = {}
    for name, found in maps.items():
        # KernelSHAP is fitted to outputs in float32, and held to these.
        precise = name == "integrated_gradients"
        judge = subject.precise if precise else network
        complete = completeness(judge, inputs.double() if precise else inputs, targets, found)
        errors, differences = complete if METHODS[name].complete else (None, None)
        methods[name] = MethodFindings(found, curved[name], correlations[name], errors, differences)
    labels = examples.labels
    return Findings(
        examples.source,
        len(examples),
        names,
        settings,
        settings.cell % len(network.cells),
        len(network.cells),
        Chosen(
            tuple(examples.names[place] for place in chosen.tolist()),
            pixels,
            None if labels is None else labels[chosen],
            predicted,
            seen.outputs[chosen].double().softmax(1).gather(1, predicted[:, None])[:, 0],
        ),
        at_random,
        methods,
        cascade,
        len(checked),
        agreement(maps, settings.patches),
        {_place(network, name): weights.double().cpu() for name, weights in attention_maps(network, inputs).items()},
        _surrogate(run, seen, plan),
        None if labels is None else float((seen.predicted == labels).double().mean()),
        examples.notes,
    )


def _place(network: DiscreteNetwork, name: str) -> str:
    """Returns the edge of a cell that a module of that name is on, with its number among the inputs
    of the node if there are several from one state; the name itself of others."""
    found = re.fullmatch(r"layers\.(\d+)\.nodes\.(\d+)\.(\d+)", name)
    if found is None:
        return name
    layer, node, feed = map(int, found.groups())
    cell = network.layers[layer]
    assert isinstance(cell, DiscreteCell)
    sources = cell.sources[node]
    which = f" ({feed})" if sources.count(sources[feed]) > 1 else ""
    return f"cell {network.cells.index(cell)}: {sources[feed]} to {len(cell.preprocess) + node}{which}"


def _surrogate(run: Run, seen: Seen, plan: Plan) -> Surrogate | None:
    if seen.features is None:
        return None
    features = feature_names(run.trained.network, seen.features.shape[1])
    names = run.trained.format.class_names
    return fit_surrogate(seen.features, seen.predicted, features, names, plan.depth, plan.settings.seed)


def _spread(count: int, most: int) -> Tensor:
    """Returns places of at most `most` images, equally far apart."""
    return torch.arange(min(count, most)) * count // min(count, most)


def _sanity(
    subject: Subject, maps: dict[str, Tensor], inputs: Tensor, targets: Tensor, checked: Tensor
) -> tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]:
    """Returns the stages of the cascade and, for each method, the mean rank correlation of its maps
    without their signs with those of the trained network (Adebayo et al. 2018, section 3.1)."""
    # A rank correlation needs no sums that are right to the last digit.
    settings = replace(subject.settings, complete=False)
    found: dict[str, list[float | None]] = {name: [] for name in maps}
    images, outputs = (values[checked.to(values.device)] for values in (inputs, targets))
    cascade = stages(subject.network)
    for number, (_, modules) in enumerate(cascade):
        seed = derive_seed(settings.seed, "sanity", number)
        other = Subject(randomised(subject.network, modules, inputs, seed), settings, subject.advance)
        for name, trained in maps.items():
            found[name].append(_likeness(trained[checked], other.maps(name, images, outputs)))
    return tuple(name for name, _ in cascade), {name: tuple(values) for name, values in found.items()}


def _likeness(before: Tensor, after: Tensor) -> float | None:
    """Returns the mean rank correlation of maps [B, H, W] without their signs; a map that has become
    constant has 0. None: those of the trained network are constant."""
    known = ~is_flat(before)
    correlations = rank_correlation(before.abs().flatten(1), after.abs().flatten(1))
    return mean(torch.where(is_flat(after), 0.0, correlations)[known])


def known_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of methods in their usual order. Raises FieldError for an unknown one."""
    for name in names:
        if name not in METHODS:
            raise FieldError("methods", f"must be some of {', '.join(METHODS)}, not {name!r}")
    return tuple(name for name in METHODS if name in names)
