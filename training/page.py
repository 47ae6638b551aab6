"""One file of HTML that says what a run was and what came of it; it needs nothing else to be shown, nor any script.

Text is escaped wherever it becomes HTML; only `Markup` is taken as it is, and it comes from the functions here, which
close what they open.
"""

import base64
import io
import json
import platform
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from supernet.files import write_atomically
from supernet.genotype import Genotype
from training.checkpoint import leaves
from training.config import config_to_dict, config_to_yaml
from training.data import DATA_FILE, DataConfig
from training.loop import device_name
from training.monitor import StopConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.figure import Figure

PAGE_FILE = "report.html"
MOST_CLASSES = 100
"""Classes that a table has a line for."""
_VOID = ("img", "meta")


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element with its content and attributes, all escaped but for `Markup`; `class_` and `stroke_width` are written as
    `class` and `stroke-width`, and an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: object) -> Markup:
    """Everything in a row, escaped but for `Markup`."""
    return Markup("".join(part if isinstance(part, Markup) else escape(str(part)) for part in content))


def paragraph(*content: object) -> Markup:
    return element("p", *content)


def block(text: str) -> Markup:
    """A text to copy, in its own lines."""
    return element("pre", element("code", text))


def details(summary: str, *content: object) -> Markup:
    """What is shown when the summary is opened."""
    return element("details", element("summary", summary), *content)


def warning(*content: object) -> Markup:
    return element("p", *content, class_="warning")


def figure(picture: Markup, caption: object = "", narrowest: int = 0) -> Markup:
    """A picture with a caption; on a screen narrower than `narrowest` pixels it is scrolled, not shrunk."""
    shown = element("div", element("div", picture, style=f"min-width:{narrowest}px"), class_="wide") if narrowest else picture
    return element("figure", shown, *([element("figcaption", caption)] if caption else []))


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> Markup:
    """A table with these heads (none: without); None is a dash, and the columns in `right` (numbers) are right-aligned."""

    def line(name: str, cells: Sequence[object]) -> Markup:
        return element(
            "tr",
            *(
                element(name, "-" if cell is None else cell, class_="number" if place in right else None)
                for place, cell in enumerate(cells)
            ),
        )

    head = [element("thead", line("th", columns))] if columns else []
    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", *head, body), class_="wide")


def facts(values: Mapping[str, object]) -> Markup:
    """The few numbers that matter most, in large letters, by what they are; those that are None are left out."""
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in values.items() if value is not None]
    return element("dl", *tiles, class_="facts")


def drawing(drawn: "Figure", description: str) -> Markup:
    """A matplotlib figure as a vector picture of its natural size, or as wide as there is room."""
    from matplotlib import rc_context

    content = io.BytesIO()
    # Names of its parts that are random otherwise.
    with rc_context({"svg.hashsalt": "fusenas"}):
        drawn.savefig(content, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    width = round(96 * drawn.get_figwidth())
    return element(
        "img", src=f"data:image/svg+xml;base64,{encoded}", alt=description, class_="drawing", style=f"width:{width}px"
    )


def drawn_genotype(genotype: Genotype, drawn: "Figure") -> Markup:
    """The figure of its cells, and its text to copy."""
    width = 96 * drawn.get_figwidth()
    text = genotype.to_text(genotype.text_form)
    picture = figure(drawing(drawn, f"The cells of {text}"), narrowest=min(800, round(width)))
    return join(picture, details("the genotype as text", block(text)))


class Page:
    """A page that is put together from the top."""

    def __init__(self, title: str, *introduction: object) -> None:
        self.title = title
        self._parts: list[Markup] = [element("header", element("h1", title), *introduction)]

    def section(self, heading: str, *content: object) -> None:
        """The next section."""
        self._parts.append(element("section", element("h2", heading), *content))

    def html(self) -> str:
        """All of it."""
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", self.title),
            element("style", Markup(_STYLE)),
        )
        body = element("body", element("main", *self._parts))
        return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"

    def write(self, run: Path) -> Path:
        """Writes report.html in the directory of a run and returns its path. Raises OSError where that cannot be done."""
        path = run / PAGE_FILE
        write_atomically(path, self.html())
        return path


# What pages of all runs say


@dataclass(frozen=True)
class Process:
    """What the process that ends a run, and writes its page, has done of it."""

    before: int
    """Epochs that were behind when it began."""
    done: int
    """Epochs that are behind now."""
    seconds: float
    """That it took."""

    def notes(self, epochs: int, stop: StopConfig | None) -> list[Markup]:
        """What is to be known of its time, and why fewer than all `epochs` are behind where it was `stop` that ended it."""
        parts = []
        if self.before:
            part = f"epochs {self.before + 1} to {self.done}" if self.before < self.done else "no further epoch"
            parts.append(paragraph(f"The run was resumed: the time is that of its last process, with {part}."))
        if stop is not None and self.done < epochs:
            limits = {"stop.hours": stop.hours, "stop.accuracy": stop.accuracy}
            given = ", ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
            parts.append(
                warning(
                    f"Ended after epoch {self.done} of {epochs}, as asked by {given}; --resume, with another stop, goes on."
                )
            )
        return parts


def asked(config: "DataclassInstance", defaults: "DataclassInstance", whose: str) -> Markup:
    """What the configuration changes in the defaults of `whose`, and all of it."""
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
    """The value of a setting as YAML and a command line have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(setting, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def images(run: Path, config: DataConfig) -> Markup:
    """What the images of a run are, as its data.json has it, and how unevenly their classes are filled."""
    content: dict[str, Any] = json.loads((run / DATA_FILE).read_text(encoding="utf-8"))
    counts, names = content["train_images_of_class"], content["class_names"]
    channels, height, width = content["shape"]
    rows = {
        "data set": config.name,
        "training images": f"{content['train_images']:,}, of {len(names)} classes",
        "size": f"{width} by {height} pixels, {channels} channel{'s' if channels > 1 else ''}",
        "mean of pixel / " + f"{content['scale']:g}": _list(content["mean"]),
        "standard deviation": _list(content["std"]),
        "random changes": _augmentation(config),
        "weights of classes in the loss": config.class_weights,
    }  # fmt: skip
    parts = [table([], rows.items()), paragraph(_balance(counts, names, config))]
    most = max(counts) or 1
    lines = [(name, f"{count:,}", _bar(count / most)) for name, count in zip(names, counts, strict=True)][:MOST_CLASSES]
    left_out = f"the first {MOST_CLASSES} of {len(names)} classes" if len(names) > MOST_CLASSES else "images of each class"
    parts.append(details(left_out, table(["class", "training images", ""], lines, right=[1])))
    return join(*parts)


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
    """What the run ran on."""
    rows = {
        "device": describe_device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return table([], rows.items())


def describe_device(device: torch.device) -> str:
    """The name of the chip, and how many threads compute on a CPU."""
    if device.type == "cuda":
        return f"{device_name(device)} (CUDA {torch.version.cuda})"
    threads = torch.get_num_threads()
    return f"{device_name(device)}, {threads} thread{'s' if threads > 1 else ''}"


def commands(*lines: Sequence[str | Path]) -> Markup:
    """Command lines of this project to copy, `python -m` left out."""
    return block("\n".join(shlex.join(["python", "-m", *map(str, line)]) for line in lines))


def duration(seconds: float) -> str:
    """3.2 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def millions(count: float) -> str:
    """A number of parameters or multiply-adds, with three digits that count: 73.3 k, 3.35 M."""
    if count < 999_500:
        return f"{count / 1e3:.3g} k"
    return f"{count / 1e6:.3g} M" if count < 1e9 else f"{count / 1e6:,.0f} M"


def percent(share: float) -> str:
    """A share as 97.22%."""
    return f"{100 * share:.2f}%"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _bar(share: float) -> Markup:
    return element("span", class_="bar", style=f"width:{100 * share:.1f}px")


_STYLE = """
:root{color-scheme:light dark;--ink:#1f2937;--soft:#596273;--paper:#fff;--panel:#f5f6f8;--line:#dfe3e8;--accent:#2563b0;
--alarm:#9a3412;--alarm-panel:#fff4e8;--s0:#2563b0;--s1:#c2560c;--s2:#0f7d75;--s3:#8e3fa0;--s4:#8a6d00;--s5:#b03a72;--s6:#5f6b7a}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e3e7ed;--soft:#9da7b5;--paper:#14171c;--panel:#1e232b;--line:#353c47;
--accent:#7fb2f0;--alarm:#f5b67a;--alarm-panel:#33261a;
--s0:#6ea8f0;--s1:#f0954d;--s2:#4dc4b8;--s3:#cf8fe0;--s4:#d9bc4a;--s5:#ec86b3;--s6:#a5b0be}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:40px 0 8px;padding-bottom:4px;border-bottom:1px solid var(--line)}
p{margin:8px 0;max-width:78ch;overflow-wrap:anywhere}
header p,figcaption{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:8px;margin:20px 0 0}
.facts div{background:var(--panel);border-radius:8px;padding:10px 14px}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.warning{background:var(--alarm-panel);color:var(--alarm);border-left:4px solid var(--alarm);padding:8px 12px;border-radius:4px}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.92rem;margin:8px 0}
th,td{text-align:left;vertical-align:top;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);overflow-wrap:break-word}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td .long{display:inline-block;min-width:30ch;overflow-wrap:anywhere}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
p code{white-space:nowrap}
pre{background:var(--panel);border-radius:8px;padding:12px 14px;margin:8px 0;white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:10px 0}
summary{cursor:pointer;color:var(--accent)}
figure{margin:12px 0}
figcaption{font-size:.9rem;margin-top:4px;max-width:90ch}
.drawing{display:block;max-width:100%;height:auto;background:#fff;border-radius:8px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:16px 20px;margin:12px 0}
.charts figure{margin:0;min-width:0;break-inside:avoid}
.charts h3{font-size:.95rem;margin:0}
.legend{font-size:.82rem;color:var(--soft);font-variant-numeric:tabular-nums}
.legend span{white-space:nowrap;margin-right:12px}
.legend i{display:inline-block;width:14px;height:3px;vertical-align:middle;margin-right:5px;border-radius:2px}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.scale{display:inline-block;width:120px;height:10px;vertical-align:middle;margin:0 6px;border-radius:2px}
.bar{display:inline-block;height:10px;background:var(--s0);border-radius:2px;vertical-align:middle}
@media print{body{font-size:11pt}main{max-width:none;padding:0}section{break-inside:auto}h2{break-after:avoid}
.facts div,pre{border:1px solid var(--line)}.wide{overflow:visible}figure{break-inside:avoid}}
"""
