"""The sections that the pages of all runs have."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from base.plain_json import read_json
from base.texts import escape
from supernet.drawing.draw import draw_genotype
from supernet.genotypes.genotype import Genotype
from training.format import DATA_FILE
from training.hardware import device_name
from training.images.data import DataConfig
from training.report.html import Markup, block, details, drawing, element, figure, join, paragraph, table, warning
from training.run.config import config_to_dict, config_to_yaml
from training.run.directory import leaves
from training.run.monitor import StopConfig
from training.schedule import Extension, in_words

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST_CLASSES = 100
"""Number of classes that a table has a line for."""


def drawn_genotype(genotype: Genotype, pictures: bool = True) -> Markup:
    """Returns the figure of its cells, unless there shall be no `pictures`, and its text to
    copy."""
    text = genotype.to_text(genotype.text_form)
    copied = details("the genotype as text", block(text))
    if not pictures:
        return copied
    drawn = draw_genotype(genotype)
    width = 96 * drawn.get_figwidth()
    return join(figure(drawing(drawn, f"The cells of {text}"), narrowest=min(800, round(width))), copied)


@dataclass(frozen=True)
class Process:
    """The share that the process that ends a run, and writes its page, has in it."""

    before: int
    """Epochs that were done when it began."""
    done: int
    """Epochs that are done now."""
    seconds: float
    """Its duration."""

    def notes(self, epochs: int, stop: StopConfig | None, extended: Sequence[tuple[int, Extension]] = ()) -> list[Markup]:
        """Returns notes on the time of the process, on the times that the run went on for longer
        and, if `stop` ended the run, on the epochs that are missing of `epochs`."""
        parts = [paragraph(said) for said in in_words(extended)]
        if self.before:
            part = f"epochs {self.before + 1} to {self.done}" if self.before < self.done else "no further epoch"
            parts.append(paragraph(f"The run was resumed: the time is that of its last process, with {part}."))
        if stop is not None and self.done < epochs:
            limits = {"stop.hours": stop.hours, "stop.score": stop.score}
            given = ", ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
            parts.append(
                warning(
                    f"Ended after epoch {self.done} of {epochs}, as asked by {given}; --resume, with another stop, goes on."
                )
            )
        return parts


def asked(config: "DataclassInstance", defaults: "DataclassInstance", whose: str) -> Markup:
    """Returns the fields in which the configuration differs from the defaults of `whose`, and all
    fields."""
    given, usual = leaves(config_to_dict(config)), leaves(config_to_dict(defaults))
    changed = [
        (element("code", name), setting(value) or "''", setting(usual[name]) or "''")
        for name, value in given.items()
        if value != usual[name]
    ]
    return join(
        table(["setting", "here", "default"], changed) if changed else paragraph(f"Every setting is the default of {whose}."),
        details("all settings, as YAML", block(config_to_yaml(config))),
    )


def setting(value: object) -> str:
    """Returns the value of a setting as YAML and a command line have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(setting, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def images(run: Path, config: DataConfig) -> Markup:
    """Returns the format of the images of a run, from its data.json, and the balance of their
    classes or the spread of their numbers."""
    content: dict[str, Any] = read_json(run / DATA_FILE)
    names, counts = content["class_names"], content.get("train_images_of_class")
    channels, height, width = content["shape"]
    rows = {
        "data set": config.name,
        "training images": f"{content['train_images']:,}" + ("" if counts is None else f", of {len(names)} classes"),
        "size": f"{width} by {height} pixels, {channels} channel{'s' if channels > 1 else ''}",
        "mean of pixel / " + f"{content['scale']:g}": _list(content["mean"]),
        "standard deviation": _list(content["std"]),
        "random changes": _augmentation(config),
    }  # fmt: skip
    if notes := content.get("notes"):
        rows["how they were read"] = "; ".join(map(escape, notes))
    if values := content.get("values"):
        return join(table([], rows.items()), _spread(names, values, content["train_range"]))
    if counts is None:
        return table([], rows.items())
    rows["weights of classes in the loss"] = config.class_weights
    parts = [table([], rows.items()), paragraph(_balance(counts, names, config))]
    most = max(counts) or 1
    lines = [(name, f"{count:,}", _bar(count / most)) for name, count in zip(names, counts, strict=True)][:MOST_CLASSES]
    left_out = f"the first {MOST_CLASSES} of {len(names)} classes" if len(names) > MOST_CLASSES else "images of each class"
    parts.append(details(left_out, table(["class", "training images", ""], lines, right=[1])))
    return join(*parts)


def _spread(names: Sequence[str], values: Mapping[str, Sequence[float]], ranges: Sequence[Sequence[float]]) -> Markup:
    """Returns the table of the numbers that belong to the training images."""
    lines = [
        (name, *(f"{number:.8g}" for number in (*pair, mean, std)))
        for name, pair, mean, std in zip(names, ranges, values["mean"], values["std"], strict=True)
    ][:MOST_CLASSES]
    left_out = f"The first {MOST_CLASSES} of {len(names)} numbers. " if len(names) > MOST_CLASSES else ""
    said = f"{left_out}The network is trained for (number - mean) / deviation; errors are in the number's own unit."
    columns = ["number", "from", "to", "mean", "deviation"]
    return join(table(columns, lines, right=range(1, 5)), paragraph(said))


def _balance(counts: Sequence[int], names: Sequence[str], config: DataConfig) -> str:
    fewest, most = min(counts), max(counts)
    if most <= 1.5 * fewest:
        each = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
        said = f"The classes are about evenly filled, with {each} training images each"
        return f"{said}; they are weighted all the same." if config.class_weights == "balanced" else f"{said}."
    least, largest = names[counts.index(fewest)], names[counts.index(most)]
    said = f"The classes are unevenly filled: {fewest:,} training images of “{least}”, {most:,} of “{largest}”. "
    if config.class_weights == "balanced":
        said += "The training loss weighs them so that all classes count alike. "
    else:
        said += "The training loss does not make up for it; data.class_weights balanced would. "
    return said + "Accuracy is to be read beside macro recall, in which every class counts alike."


def _augmentation(config: DataConfig) -> str:
    changes = []
    if config.crop_area < 1:
        changes.append(f"a part of at least {100 * config.crop_area:g}% of the area")
    if config.crop_padding:
        changes.append(f"a crop after padding by {_pixels(config.crop_padding)}")
    if config.flip:
        changes.append("mirrored left to right")
    if config.cutout:
        changes.append(f"a square of {_pixels(config.cutout)} a side blanked")
    return ", ".join(changes) or "none"


def _pixels(count: int) -> str:
    return f"{count} pixel{'s' if count > 1 else ''}"


def environment(device: torch.device) -> Markup:
    """Returns the device, the versions and the system of the run."""
    rows = {
        "device": describe_device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return table([], rows.items())


def describe_device(device: torch.device) -> str:
    """Returns the name of the chip, and of a CPU the number of threads that compute."""
    if device.type == "cuda":
        return f"{device_name(device)} (CUDA {torch.version.cuda})"
    threads = torch.get_num_threads()
    return f"{device_name(device)}, {threads} thread{'s' if threads > 1 else ''}"


def commands(*lines: Sequence[str | Path]) -> Markup:
    """Returns command lines of this project to copy; they are given without `python -m`."""
    return block("\n".join(shlex.join(["python", "-m", *map(str, line)]) for line in lines))


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _bar(share: float) -> Markup:
    return element("span", class_="bar", style=f"width:{100 * share:.1f}px")
