"""Every file that a user or an earlier run may leave, in every way that files have been found damaged.

Each reader returns, or says in one short line what is wrong, soon and in little memory; no file is changed. Random damage is
in tests/test_fuzz.py.
"""

import gzip
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrain.config import RetrainConfig
from retrain.finished import RetrainRun
from retrain.weights import Trained
from search.costs.tabular import Table
from search.differentiable.config import SearchConfig
from search.finished import SearchRun
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import get_genotype
from training.format import read_format
from training.images.data import DataConfig, load_images
from training.run.command import foreseen
from training.run.config import config_from_file

SECONDS = 3.0  # of one case: the larger ones are some MB
MEMORY = 500 * 2**20  # bytes of all cases of a test
LONGEST = 700  # characters of a message, paths included
FEWEST = 500  # cases

LONG = b"9" * 400
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "a zero byte": lambda content: b"\0",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but the last byte": lambda content: content[:-1],
    "all but the first byte": lambda content: content[1:],
    "twice": lambda content: content * 2,
    "backwards": lambda content: content[::-1],
    "bytes of all values": lambda content: bytes(range(256)) * 16,
    "zeros of the same length": lambda content: bytes(len(content)),
    "zeros behind": lambda content: content + bytes(2**20),
    "no UTF-8 before": lambda content: b"\xff\xfe" + content,
    "a mark before": lambda content: b"\xef\xbb\xbf" + content,
    "a zero byte in the middle": lambda content: content[: len(content) // 2] + b"\0" + content[len(content) // 2 :],
    "an escape of the terminal in the middle": lambda content: (
        content[: len(content) // 2] + b"\x1b]0;a\x07\x1b[2J" + content[len(content) // 2 :]
    ),
    "null": lambda content: b"null\n",
    "a number": lambda content: b"3\n",
    "a text": lambda content: b'"text"\n',
    "an empty list": lambda content: b"[]\n",
    "an empty mapping": lambda content: b"{}\n",
    "a list of mappings": lambda content: b"[{}, {}]\n",
    "deep lists": lambda content: b"[" * 50_000,
    "deep mappings": lambda content: b'{"a": ' * 50_000,
    "a long list": lambda content: b"[" + b"1, " * 80_000 + b"1]",
    "a long line": lambda content: b"x" * 2**20,
    "many lines": lambda content: b"a: 1\n" * 50_000,
    "tags": lambda content: b'!!int ""\n',
    "a pickle": lambda content: b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x05pwned\x85R.",
    "another type of text": lambda content: content.decode("latin-1").encode("utf-16"),
    "lines of another system": lambda content: content.replace(b"\n", b"\r\n"),
    "every number with 400 digits": lambda content: re.sub(rb"\d+", LONG, content[:20_000]) + content[20_000:],
    "every number below zero": lambda content: re.sub(rb"\b(\d)", rb"-\1", content[:20_000]) + content[20_000:],
    "every number not a number": lambda content: re.sub(rb"\d+(\.\d+)?", b"NaN", content[:20_000]) + content[20_000:],
    "every number infinite": lambda content: re.sub(rb"\d+(\.\d+)?", b"1e999", content[:20_000]) + content[20_000:],
    "every number null": lambda content: re.sub(rb"\d+(\.\d+)?", b"null", content[:20_000]) + content[20_000:],
    "every name doubled": lambda content: re.sub(rb'"(\w+)":', rb'"\1": 0, "\1":', content[:20_000]) + content[20_000:],
    "every name longer": lambda content: re.sub(rb"([a-z_]{3,})", rb"\1" * 20, content[:20_000]) + content[20_000:],
}


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def itself(path: Path) -> None:
    path.symlink_to(path.name)


OTHERS = (folder, pipe, endless, nowhere, itself)
"""No files, where a file is expected."""

CELL = b"|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
COLUMNS = ("arch", "cifar10_valid_12", "cifar10_valid_200", "cifar10_test_200")
Make = Callable[[Path, Mapping[str, Path]], Callable[[], object]]
"""Makes a sound file at a path, of finished runs or of nothing, and returns its reader."""


def config_of_search(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    shutil.copy(finished["search.darts"] / "config.yaml", path)
    return lambda: config_from_file(SearchConfig, path)


def config_of_retraining(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    shutil.copy(finished["retrain"] / "config.yaml", path)
    return lambda: config_from_file(RetrainConfig, path)


def genotype_json(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    path.write_text(get_genotype("DARTS_V2").to_text("json"))
    return lambda: Genotype.load(path)


def genotype_text(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    path.write_text(get_genotype("DARTS_V2").to_text("darts"))
    return lambda: Genotype.load(path)


def genotype_string(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    path.write_bytes(CELL)
    return lambda: Genotype.load(path)


def table_text() -> bytes:
    columns = [*COLUMNS, "params_cifar10", "flops_cifar10", "latency_ms_cpu"]
    return b"\n".join([",".join(columns).encode(), CELL + b",80.0,90.0,91.5,1000,20000,3.5", b""])


def table(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    path.write_bytes(table_text())
    return lambda: Table.read(path)


def packed_table(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    path.write_bytes(gzip.compress(table_text()))
    return lambda: Table.read(path)


def arrays(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    images = {"x_train": np.zeros((12, 8, 8, 3), np.uint8), "y_train": np.arange(12) % 2}
    np.savez(path.with_suffix(".npz"), **images, x_test=np.ones((4, 8, 8, 3), np.uint8), y_test=np.arange(4) % 2)
    path.with_suffix(".npz").rename(path)
    return lambda: load_images(DataConfig("npz", str(path), loading="resident"), "train")


def picture(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
    """A picture among sound ones."""
    root = path.parent / "pictures"
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    Image.fromarray(pixels).save(path)
    (root / "cat/5.png").symlink_to(path)
    data = DataConfig("folder", str(root), size=8, loading="resident", workers=1)
    return lambda: load_images(data, "train", log=lambda line: None)


def of_run(command: str, name: str, read: Callable[[Path], object]) -> Make:
    """Makes a run whose file of that name is at the path."""

    def make(path: Path, finished: Mapping[str, Path]) -> Callable[[], object]:
        run = path.parent / "run"
        shutil.copytree(finished[command], run)
        found = sorted(run.glob(name))[-1]
        found.rename(path)
        found.symlink_to(path)
        return lambda: read(run)

    return make


READERS: dict[str, tuple[Make, str]] = {
    "config of a search": (config_of_search, "config.yaml"),
    "config of a retraining": (config_of_retraining, "config.yaml"),
    "genotype as JSON": (genotype_json, "genotype.json"),
    "genotype as text": (genotype_text, "genotype.txt"),
    "genotype as a string": (genotype_string, "genotype.txt"),
    "table": (table, "table.csv"),
    "packed table": (packed_table, "table.csv.gz"),
    "arrays": (arrays, "arrays.npz"),
    "picture": (picture, "picture.png"),
    "config of a run": (of_run("search.darts", "config.yaml", SearchRun.open), "config.yaml"),
    "history": (of_run("search.darts", "history.jsonl", SearchRun.open), "history.jsonl"),
    "genotype of a run": (of_run("search.darts", "genotype.json", SearchRun.open), "genotype.json"),
    "description of images": (of_run("retrain", "data.json", read_format), "data.json"),
    "checkpoint": (of_run("search.darts", "checkpoints/*.pt", lambda run: SearchRun.open(run).state), "epoch.pt"),
    "weights": (of_run("retrain", "weights.safetensors", Trained.load), "weights.safetensors"),
    "history of a retraining": (of_run("retrain", "history.jsonl", lambda run: RetrainRun.open(run).history), "history.jsonl"),
}  # fmt: skip


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = peak()
    yield
    assert peak() - before < MEMORY


def problem_of(read: Callable[[], object]) -> str | None:
    """Returns what is wrong with what a reader said, or with the time that it took; None if nothing is."""
    started = time.process_time()
    try:
        read()
    except Exception as error:
        end = foreseen(error)
        if end is None:
            return f"{type(error).__name__}: {str(error)[:200]}"
        if not end.message.isprintable() or len(end.message) > LONGEST or end.status != 2:
            return f"said {end.message[:300]!r}"
    seconds = time.process_time() - started
    return f"took {seconds:.1f} s" if seconds > SECONDS else None


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(
    reader: str, here: Path, finished: dict[str, Path], files: Callable[[Path], Mapping[str, bytes | str | None]]
) -> None:
    make, name = READERS[reader]
    path = here / name
    read = make(path, finished)
    assert problem_of(read) is None and read() is not None, "the sound file is not read"
    sound = path.read_bytes()
    wrong = []
    for kind, damage in DAMAGES.items():
        path.write_bytes(damage(sound))
        before = files(here)
        problem = problem_of(read)
        if problem or files(here) != before:
            wrong.append(f"{kind}: {problem or 'a file was changed'}")
    for other in OTHERS:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        other(path)
        if problem := problem_of(read):
            wrong.append(f"{other.__name__}: {problem}")
    assert not wrong, "\n".join(wrong)


def test_there_are_as_many_cases_as_is_said() -> None:
    assert len(READERS) * (len(DAMAGES) + len(OTHERS)) > FEWEST
