"""What all tests share."""

import gzip
import os
import re
import signal
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Without a GPU kernels run in Triton's interpreter, which has to be chosen before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run in parallel processes (make test), and one thread each is also what makes them repeatable.
torch.set_num_threads(1)

# A shell's background jobs ignore interrupts and hand that on to the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis, too, takes the same examples each time.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Published tables and real data are no part of the project; tests that need them are skipped where they are not at hand.
DATA = os.environ.get("FUSENAS_DATA")
# Where Debian's package dataset-fashion-mnist has its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a file of published data; skips the test where it is absent."""

    def find(name: str) -> Path:
        if DATA is None or not (path := Path(DATA) / name).exists():
            pytest.skip(f"needs {name} in the folder that the environment variable FUSENAS_DATA names")
        return path

    return find


@pytest.fixture
def count_calls() -> Callable[[Callable[[], object]], int]:
    """Runs a function and returns how many functions it called: its time, where the clock of a busy machine tells little."""

    def count(function: Callable[[], object]) -> int:
        calls = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            function()
        finally:
            sys.setprofile(None)
        return calls

    return count


@pytest.fixture(scope="session")
def fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of Fashion-MNIST as torchvision has it; skips the test where Debian's package of it is absent."""
    if not FASHION_MNIST.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    root = tmp_path_factory.mktemp("fashion_mnist")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION_MNIST.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return root


class _Page(HTMLParser):
    """Fails where an element is not closed or something outside the file is asked for; gathers the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "base", "object", "embed"), tag
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset", "data"):
                assert value is not None and value.startswith("data:image/"), (tag, name, value)
            assert not name.startswith("on") and "url(" not in (value or ""), (tag, name, value)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert not re.search(r"url\(|@import|http", data)
        else:
            self.parts.append(data)


@pytest.fixture
def read_page() -> Callable[[Path], str]:
    """The text of the report.html in the directory of a run, which is well formed and needs no other file; element after
    element, with a bar between them."""

    def read(run: Path) -> str:
        content = (run / "report.html").read_text(encoding="utf-8")
        assert len(content) < 3_000_000
        page = _Page()
        page.feed(content)
        page.close()
        assert not page.open
        return "|".join(page.parts)

    return read


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
