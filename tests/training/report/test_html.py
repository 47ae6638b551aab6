"""Tests of training/report/html.py."""

import base64
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from base.texts import escape
from training.images.data import DataConfig
from training.report.html import (
    Markup,
    Page,
    block,
    details,
    drawing,
    duration,
    element,
    facts,
    figure,
    join,
    millions,
    table,
)
from training.report.sections import Process, asked, commands, describe_device, images, setting
from training.run.monitor import StopConfig

Read = Callable[[Path], str]
HOSTILE = '<script>alert("1")</script> & \'"></td>'


def written(tmp_path: Path, *content: object, title: str = "page") -> Path:
    page = Page(title)
    page.section("section", *content)
    assert page.write(tmp_path) == tmp_path / "report.html"
    return tmp_path


def test_text_is_escaped_wherever_it_stands(tmp_path: Path, read_page: Read) -> None:
    content = (
        HOSTILE,
        block(HOSTILE),
        details(HOSTILE, HOSTILE),
        facts({HOSTILE: HOSTILE}),
        table([HOSTILE], [[HOSTILE], [element("b", HOSTILE, title=HOSTILE)]]),
        figure(element("svg", element("title", HOSTILE)), HOSTILE),
        join(HOSTILE, element("i", HOSTILE)),
    )
    text = read_page(written(tmp_path, *content, title=HOSTILE))
    assert text.count(HOSTILE) == 15, "whole each time, as text"


@given(text=st.text(), value=st.text())
def test_any_text_and_attribute_comes_back_escaped(text: str, value: str) -> None:
    from html.parser import HTMLParser

    found: list[object] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attributes)))

        def handle_data(self, data: str) -> None:
            found.append(data)

    reader = Reader()
    reader.feed(element("p", text, class_=value, id=None, stroke_width=2))
    reader.close()
    (_, attributes), *texts = found
    assert attributes == {"class": shown(value), "stroke-width": "2"}
    assert "".join(map(str, texts)) == shown(text)


def shown(text: str) -> str:
    return "\n".join(map(escape, text.split("\n")))


def test_no_text_turns_the_page_or_stops_its_writing(tmp_path: Path, read_page: Read) -> None:
    text = read_page(written(tmp_path, "\u202egnp.exe \x1b[2J \udcff\x00", block("two\nlines"), title="\u2066title"))
    assert "\\u202egnp.exe \\x1b[2J \\udcff\\x00" in text and "two\nlines" in text and "\\u2066title" in text


def test_only_markup_is_taken_as_it_is() -> None:
    assert element("p", Markup("<b>"), "<b>") == "<p><b>&lt;b&gt;</p>"
    assert element("img", alt="x") == '<img alt="x">'


def test_a_table_has_a_dash_for_nothing_and_numbers_at_the_right() -> None:
    made = table(["a", "b"], [["x", 1], [None, 0]], right=[1])
    assert '<td>-</td><td class="number">0</td>' in made and '<th class="number">b</th>' in made
    assert "thead" not in table([], [["x"]])


def test_facts_that_are_none_are_left_out() -> None:
    assert facts({"a": 0, "b": None}) == '<dl class="facts"><div><dt>a</dt><dd>0</dd></div></dl>'


def test_a_drawing_is_the_same_vector_picture_each_time(tmp_path: Path, read_page: Read) -> None:
    from matplotlib.figure import Figure

    def draw() -> Markup:
        drawn = Figure((2, 1))
        drawn.subplots().plot([1, 2], clip_on=True)
        return drawing(drawn, HOSTILE)

    made = draw()
    assert made == draw()
    source = made.partition('src="data:image/svg+xml;base64,')[2].partition('"')[0]
    assert b"<svg" in base64.b64decode(source) and 'style="width:192px"' in made
    read_page(written(tmp_path, made))


# What pages of all runs say


@dataclass
class Inner:
    names: list[str] = field(default_factory=lambda: ["a"])
    rate: float | None = None


@dataclass
class Config:
    epochs: int = 5
    flip: bool = False
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_what_was_asked_is_what_differs_from_the_defaults(tmp_path: Path, read_page: Read) -> None:
    text = read_page(written(tmp_path, asked(Config(flip=True, name=HOSTILE, inner=Inner(["b", "c"])), Config(), "one")))
    shown, _, everything = text.partition("all settings")
    assert f"setting|here|default|flip|true|false|name|{HOSTILE}|x|inner.names|[b, c]|[a]|" in shown
    assert "epochs: 5" in everything
    assert "Every setting is the default of one." in asked(Config(), Config(), "one")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (0.5, "0.5"), ([], "[]"), ([1, None], "[1, null]"), ("a", "a")]
)
def test_a_setting_is_written_as_in_yaml(value: object, text: str) -> None:
    assert setting(value) == text


def save_data(run: Path, counts: list[int], names: list[str] | None = None) -> None:
    content = {
        "shape": [1, 8, 9], "scale": 255.0, "mean": [0.25], "std": [0.5],
        "class_names": names or [f"class {number}" for number in range(len(counts))],
        "train_images": sum(counts), "train_images_of_class": counts,
    }  # fmt: skip
    (run / "data.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("counts", "weights", "said"),
    [
        ([10, 10], "none", "The classes are about evenly filled, with 10 training images each."),
        ([10, 12], "balanced", "with 10 to 12 training images each; they are weighted all the same."),
        ([2, 1000], "none", "2 training images of “class 0”, 1,000 of “class 1”. The training loss does not make up for it"),
        ([1000, 2], "balanced", "The training loss weighs them so that all classes count alike. Accuracy is to be read beside"),
        ([0, 0, 5], "none", "The classes are unevenly filled: 0 training images of “class 0”, 5 of “class 2”."),
    ],
)
def test_the_balance_of_classes_is_said(counts: list[int], weights: str, said: str, tmp_path: Path, read_page: Read) -> None:
    save_data(tmp_path, counts)
    config = DataConfig(class_weights=weights, flip=True, crop_padding=2)  # type: ignore[arg-type]
    text = read_page(written(tmp_path, images(tmp_path, config)))
    assert said in text and ("macro recall" in text) == (max(counts) > 1.5 * min(counts))
    assert f"{sum(counts):,}, of {len(counts)} classes" in text and "9 by 8 pixels, 1 channel|" in text
    assert "a crop after padding by 2 pixels, mirrored left to right" in text
    for number, count in enumerate(counts):
        assert f"class {number}|{count:,}|" in text


def test_of_very_many_classes_the_first_are_listed_and_their_names_are_but_text(tmp_path: Path, read_page: Read) -> None:
    save_data(tmp_path, [3] * 1000, [f"{HOSTILE} {number}" for number in range(1000)])
    text = read_page(written(tmp_path, images(tmp_path, DataConfig())))
    assert "the first 100 of 1000 classes" in text and text.count(HOSTILE) == 100


def test_a_run_that_was_resumed_or_ended_early_says_so() -> None:
    stop = StopConfig(hours=2, score=0.5)
    assert Process(0, 5, 1.0).notes(5, stop) == []
    (resumed,) = Process(3, 5, 1.0).notes(5, stop)
    assert "with epochs 4 to 5" in resumed
    assert "with no further epoch" in Process(5, 5, 1.0).notes(5, stop)[0]
    (ended,) = Process(0, 2, 1.0).notes(5, stop)
    assert "Ended after epoch 2 of 5, as asked by stop.hours 2, stop.score 0.5; --resume, with another stop, goes on." in ended
    assert Process(0, 2, 1.0).notes(5, None) == [], "ended by itself"


def test_commands_can_be_pasted_into_a_shell() -> None:
    made = commands(["retrain", "--run", Path("a b")], ["retrain.evaluate", "x;y"])
    first, second = made.removeprefix("<pre><code>").removesuffix("</code></pre>").replace("&#x27;", "'").split("\n")
    assert shlex.split(first) == ["python", "-m", "retrain", "--run", "a b"]
    assert shlex.split(second) == ["python", "-m", "retrain.evaluate", "x;y"]


def test_numbers_for_people() -> None:
    assert [duration(seconds) for seconds in (3.21, 250, 3599.6, 7500)] == ["3.2 s", "4 min 10 s", "1 h 00 min", "2 h 05 min"]
    counts = (73_306, 999_499, 999_500, 3_349_342, 528_359_050, 4_000_000_000)
    assert [millions(count) for count in counts] == ["73.3 k", "999 k", "1 M", "3.35 M", "528 M", "4,000 M"]


def test_a_cpu_has_a_name_and_threads() -> None:
    name = describe_device(torch.device("cpu"))
    assert name.endswith(", 1 thread") and len(name) > len(", 1 thread")
