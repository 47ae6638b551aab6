"""The findings of an explanation, and the sentences that they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrain.explain.attributions import METHODS, Settings, by_patch
from retrain.explain.faithfulness import Curves, interval
from retrain.explain.sanity import THRESHOLD
from retrain.explain.surrogate import FOLDS, Surrogate


@dataclass(frozen=True)
class Chosen:
    """The images whose maps are shown, with what the network says of them."""

    names: tuple[str, ...]
    pixels: Tensor
    """As in `examples.Examples`, [B, C, H, W]."""
    labels: Tensor | None
    predicted: Tensor
    """The class that each map explains, int64 [B]."""
    probabilities: Tensor
    """Its softmax probability, [B]."""

    def is_right(self, place: int) -> bool | None:
        """Says whether the network recognises an image; None: its class is not known."""
        return None if self.labels is None else bool(self.labels[place] == self.predicted[place])


@dataclass(frozen=True)
class MethodFindings:
    """The maps of a method, and how far they can be trusted."""

    maps: Tensor
    """[B, H, W], above 0 what speaks for the predicted class."""
    curves: Curves
    sanity: tuple[float | None, ...]
    """Rank correlation with the maps of the network whose weights are random, by stage."""
    errors: Tensor | None
    """Completeness errors, [B]; None: the method does not claim any."""
    differences: Tensor | None
    """Outputs less those for the baseline, which the values are meant to add up to, [B]."""

    @property
    def is_worthless(self) -> bool:
        """Says whether the maps stay as they are when all weights are random."""
        return self.sanity[-1] is not None and self.sanity[-1] >= THRESHOLD


@dataclass(frozen=True)
class Findings:
    """All that was found."""

    source: str
    seen: int
    """Number of images that were looked through."""
    class_names: tuple[str, ...]
    settings: Settings
    cell: int
    """The cell that Grad-CAM looked at, from 0."""
    cells: int
    chosen: Chosen
    random: Curves
    """Curves of the pixels in a random order."""
    methods: Mapping[str, MethodFindings]
    stages: tuple[str, ...]
    """The stages of the sanity check."""
    checked: int
    """Number of the images that the sanity check was made with."""
    agreement: Mapping[str, Mapping[str, float | None]]
    attention: Mapping[str, Tensor]
    """Weights of modules that attend, by name: gates [B, C], or shares [B, h, w]."""
    surrogate: Surrogate | None
    accuracy: float | None
    """Share of the images that the network recognises; None: their classes are not known."""
    notes: tuple[str, ...] = ()

    def gain_over_random(self, method: str) -> tuple[float, float, float]:
        """Returns how much more a method gains (`Curves.gain`) than a random order: mean over the
        images, and the 95% interval."""
        more = self.methods[method].curves.gain - self.random.gain
        return float(more.mean()), *interval(more, self.settings.seed)

    def sentences(self) -> list[str]:
        """Returns what the numbers say of each method."""
        return [self._said_of(name) for name in self.methods]

    def _said_of(self, name: str) -> str:
        found, title = self.methods[name], METHODS[name].title
        mean, low, high = self.gain_over_random(name)
        said = (
            f"{title[0].upper()}{title[1:]}: the area of insertion less that of deletion is {mean:+.3f} ({low:+.3f} to "
            f"{high:+.3f}) beside that of a random order of pixels"
        )
        said += ", better than random." if low > 0 else ", worse than random." if high < 0 else ", not better than random."
        last = found.sanity[-1]
        if last is None:
            return f"{said} Its maps are constant, so that they cannot be compared with those of random weights."
        share = f"with random weights its maps correlate {last:.2f} with those of the trained ones"
        if found.is_worthless:
            why = f"at least {THRESHOLD:g}, so that they show the image and not the network"
            return f"{said} It is worthless here: {share}, {why}."
        return f"{said} It depends on the network: {share}, below {THRESHOLD:g}."

    def said_of_tree(self) -> str:
        """Returns what the numbers say of the surrogate."""
        tree = self.surrogate
        if tree is None:
            return "No tree was fitted: that takes 20 images, two predicted classes and a linear last layer."
        said = (
            f"A tree of {tree.leaves} leaves says what the network says for {tree.fidelity:.1%} of {tree.images:,} images, "
            f"each asked of a tree that was fitted without it ({FOLDS} folds); always saying the most frequent class would be "
            f"right for {tree.base_rate:.1%}."
        )
        return said if tree.is_better else f"{said} It is no explanation: it says no more than the most frequent class."

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers, ready for JSON."""
        names, chosen = self.class_names, self.chosen
        images = [
            {
                "image": chosen.names[place],
                "class": None if chosen.labels is None else names[int(chosen.labels[place])],
                "predicted": names[int(chosen.predicted[place])],
                "probability": float(chosen.probabilities[place]),
            }
            for place in range(len(chosen.names))
        ]
        return {
            "source": self.source,
            "images": self.seen,
            "accuracy": self.accuracy,
            "class_names": list(names),
            "settings": {
                "cell": self.cell,
                "patches": self.settings.patches,
                "steps": self.settings.steps,
                "complete": self.settings.complete,
                "samples": self.settings.samples,
                "seed": self.settings.seed,
            },
            "explained": images,
            "random_order": _areas(self.random),
            "sanity": {"stages": list(self.stages), "images": self.checked, "threshold": THRESHOLD},
            "methods": {name: self._of_method(name) for name in self.methods},
            "agreement": {name: dict(others) for name, others in self.agreement.items()},
            "attention": {name: _listed(weights) for name, weights in self.attention.items()},
            "surrogate": None if self.surrogate is None else self._of_tree(self.surrogate),
            "sentences": [*self.sentences(), self.said_of_tree()],
            "notes": list(self.notes),
        }

    def _of_method(self, name: str) -> dict[str, Any]:
        found = self.methods[name]
        mean, low, high = self.gain_over_random(name)
        complete = {}
        if found.errors is not None and found.differences is not None:
            complete = {"completeness_error": _listed(found.errors), "output_less_baseline": _listed(found.differences)}
        return {
            **complete,
            **_areas(found.curves),
            "gain_over_random": {"mean": mean, "low": low, "high": high},
            "sanity": list(found.sanity),
            "worthless": found.is_worthless,
            "patches": _listed(by_patch(found.maps, self.settings.patches)),
        }

    @staticmethod
    def _of_tree(tree: Surrogate) -> dict[str, Any]:
        return {
            "images": tree.images,
            "fidelity": tree.fidelity,
            "base_rate": tree.base_rate,
            "leaves": tree.leaves,
            "features": tree.features,
            "used": list(tree.used),
            "rules": tree.rules.split("\n"),
        }


def _areas(curves: Curves) -> dict[str, Any]:
    return {
        "deletion_area": float(curves.deletion_area.mean()),
        "insertion_area": float(curves.insertion_area.mean()),
        "deletion": _listed(curves.deletion.mean(0)),
        "insertion": _listed(curves.insertion.mean(0)),
    }


def _listed(values: Tensor) -> list[Any]:
    """Returns the values as lists of numbers with six digits."""
    return _rounded(values.tolist())


def _rounded(values: Sequence[Any]) -> list[Any]:
    return [_rounded(value) if isinstance(value, list) else float(f"{value:.6g}") for value in values]


def largest_error(found: MethodFindings) -> tuple[float, float]:
    """Returns the largest completeness error of a method, and its median share of the output less
    that for the baseline."""
    assert found.errors is not None and found.differences is not None
    shares = found.errors / found.differences.abs().clamp_min(torch.finfo(torch.float64).tiny)
    return float(found.errors.max()), float(shares.median())
