"""Damaged files: whatever is in one, its reader returns or says in one line what is wrong, soon and in little memory."""

import hashlib
import io
import json
import re
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from retrain.weights import Trained
from search.differentiable.config import SearchConfig
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import get_genotype
from training.format import DATA_FILE, ImageFormat, saved_format
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.images.files import Decoding
from training.images.sets import ImageSet
from training.run.checkpoint import _MAGIC, Checkpoints
from training.run.config import RunOptions, config_from_file, config_to_yaml
from training.tasks.classification import Classification

SECONDS = 10  # that one file may take: a hundred times what it does
MEMORY = 2**30  # bytes that all files of a test may take at once
CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
HUGE = (b"9" * 20, b"-1", b"9" * 5000, b"1e999", b"4294967295", b"0", b"NaN", b"2147483648")


class Damage(NamedTuple):
    """One change; `place`, `to` and `length` are shares of the file, so that they fit a file of any size."""

    kind: str
    place: float
    to: float
    length: float
    byte: int


shares = st.floats(0, 1, allow_nan=False)
damages = st.lists(
    st.builds(
        Damage,
        st.sampled_from(("flip", "flip", "cut", "remove", "insert", "repeat", "swap", "number", "digits", "digits", "largest")),
        shares,
        shares,
        # Mostly short, as a long one leaves little to be read.
        shares.map(lambda share: share**4),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, changes: list[Damage]) -> bytes:
    """The content after all of the changes."""
    for kind, place, to, length, byte in changes:
        count = len(content)
        start, other = int(place * count), int(to * count)
        stop = start + 1 + int(length * (count - start))
        part = content[start:stop]
        match kind:
            case "flip":
                content = (
                    content[:start]
                    + bytes(value ^ (byte if byte > 127 else byte % 32) for value in part[:1])
                    + content[start + 1 :]
                )
            case "cut":
                content = content[:start]
            case "remove":
                content = content[:start] + content[stop:]
            case "insert":
                content = content[:start] + bytes([byte]) * (1 + byte) + content[start:]
            case "repeat":
                content = content[:start] + part * (2 + byte % 30 if len(part) < 2000 else 2) + content[stop:]
            case "swap":
                content = content[:other] + part + content[other:start] + content[stop:] if other < start else content[::-1]
            case "number":
                width = (1, 2, 4, 8)[byte % 4]
                value = (2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1, byte, 0)[byte // 4 % 4]
                content = content[:start] + value.to_bytes(width, "little" if byte % 2 else "big") + content[start + width :]
            case "digits":
                numbers = list(re.finditer(rb"\d+", content[:20000] + content[-5000:]))
                if numbers:
                    found = numbers[min(int(place * len(numbers)), len(numbers) - 1)]
                    content = content[: found.start()] + HUGE[byte % len(HUGE)] + content[found.end() :]
            case "largest":
                content = content[:start] + b"\xff" * 8 + content[start + 8 :]
    return content


class _TooLong(BaseException):
    """No reader catches it."""


def _stop(number: int, frame: object) -> None:
    raise _TooLong


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """The memory that the process holds at most while a test runs."""
    before = signal.signal(signal.SIGALRM, _stop)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the largest so far
    held = _memory("VmRSS")
    yield
    signal.signal(signal.SIGALRM, before)
    assert _memory("VmHWM") - held < MEMORY


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def read_within_limits(read: Callable[[], object]) -> None:
    """Calls a reader, which returns or raises a ValueError of one line."""
    signal.alarm(SECONDS)
    try:
        read()
    except ValueError as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < 2000, message
    finally:
        signal.alarm(0)


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a test so many damaged files, the same ones each time."""
    # A test writes each of its files over the one before.
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])


JSON = get_genotype("DARTS_V2").to_text("json").encode()
DARTS = get_genotype("DARTS_V2").to_text("darts").encode()


@pytest.mark.parametrize("content", [JSON, DARTS, CELL.encode()], ids=["json", "darts", "nasbench201"])
def test_genotypes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    assert Genotype.load(path)

    @examples(200)
    @given(damages)
    def read(changes: list[Damage]) -> None:
        path.write_bytes(damaged(content, changes))
        read_within_limits(lambda: Genotype.load(path))

    read()


@pytest.mark.slow
def test_configurations(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    content = config_to_yaml(SearchConfig(data=DataConfig(size=32, limit=100))).encode()
    path.write_bytes(content)
    assert config_from_file(SearchConfig, path).data.size == 32
    bombs = b"a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", b"? [a, b]\n: c\n", b"!!python/name:os.system x: 1\n"

    @examples(100)
    @given(damages, st.sampled_from((b"", b"", *bombs)))
    def read(changes: list[Damage], more: bytes) -> None:
        path.write_bytes(damaged(content + more, changes))
        read_within_limits(lambda: config_from_file(SearchConfig, path))

    read()


@pytest.mark.parametrize("kind", ["stored", "compressed"])
def test_arrays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    arrays = {"x_train": np.zeros((12, 5, 4, 3), np.uint8), "y_train": np.arange(12) % 2}
    arrays |= {"x_test": np.ones((4, 5, 4, 3), np.uint8), "y_test": np.arange(4) % 2}
    (np.savez if kind == "stored" else np.savez_compressed)(path, **arrays)
    content = path.read_bytes()
    data = DataConfig("npz", str(path), loading="resident")
    assert len(load_images(data, "train")) == 12

    @examples(350)
    @given(damages)
    def read(changes: list[Damage]) -> None:
        path.write_bytes(damaged(content, changes))
        read_within_limits(lambda: load_images(data, "train"))

    read()


def test_arrays_in_whole_archives(tmp_path: Path) -> None:
    """The damage is in an array in the archive, whose checksum is right."""
    path = tmp_path / "images.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((12, 5, 4, 3), np.uint8))
    content = buffer.getvalue()
    others = {"y_train": np.arange(12) % 2, "x_test": np.ones((4, 5, 4, 3), np.uint8), "y_test": np.arange(4) % 2}
    np.savez(path, **others)
    rest = path.read_bytes()
    data = DataConfig("npz", str(path), loading="resident")

    def write(member: bytes) -> None:
        path.write_bytes(rest)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x_train.npy", member)

    write(content)
    assert len(load_images(data, "train")) == 12

    @examples(250)
    @given(damages, st.booleans())
    def read(changes: list[Damage], in_header: bool) -> None:
        write(damaged(content[:128], changes) + content[128:] if in_header else damaged(content, changes))
        read_within_limits(lambda: load_images(data, "train"))

    read()


@pytest.mark.parametrize("checksum", ["old", "right"])
def test_checkpoints(checksum: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, header={"kind": "search"})
    network = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "history": [{"epoch": 1, "text": "a"}]}
    path = checkpoints.save(3, state)
    first, _, payload = path.read_bytes().partition(b"\n")
    assert checkpoints.latest() is not None

    @examples(250)
    @given(damages)
    def read(changes: list[Damage]) -> None:
        if checksum == "old":
            path.write_bytes(damaged(first + b"\n" + payload, changes))
        else:
            changed = damaged(payload, changes)
            path.write_bytes(_MAGIC + hashlib.sha256(changed).hexdigest().encode() + b"\n" + changed)
        read_within_limits(checkpoints.latest)

    read()


def trained() -> Trained:
    network = DiscreteNetwork(Genotype.parse(CELL), channels=2, cells=1, classes=3, image_channels=1)
    return Trained(network, ImageFormat((1, 8, 8), 255.0, (0.3,), (0.3,), ("a", "b", "c")))


@pytest.mark.parametrize("part", ["file", "description"])
def test_weights(part: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    trained().save(tmp_path)
    content = path.read_bytes()
    with safe_open(path, "pt") as file:
        ((key, description),) = file.metadata().items()
        tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    assert Trained.load(tmp_path).network.channels == 2

    @examples(200)
    @given(damages)
    def read(changes: list[Damage]) -> None:
        if part == "file":
            path.write_bytes(damaged(content, changes))
        else:
            text = damaged(description.encode(), changes).decode(errors="replace")
            path.write_bytes(save(tensors, {key: text}))
        read_within_limits(lambda: Trained.load(tmp_path))

    read()


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "tiff", "webp", "bmp", "ppm"])
def test_images(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind}"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, **({"exif": exif} if kind in ("jpeg", "png", "tiff") else {}))
    content = path.read_bytes()
    decoding = Decoding(16, 18, False, False)
    assert decoding.read(str(path)).shape == (3, 16, 16)

    @examples(60)
    @given(damages, st.sampled_from((200, 10**6)))
    def read(changes: list[Damage], most: int) -> None:
        # Half of the time only the beginning is damaged, where the sizes are.
        path.write_bytes(damaged(content[:most], changes) + content[most:])
        read_within_limits(lambda: decoding.read(str(path)))

    read()


def test_formats_of_images(tmp_path: Path) -> None:
    images = ImageSet(torch.zeros(4, 1, 8, 8), torch.arange(4) % 2, 2, (1 / 3,), (0.1,))
    Classification.of_images(DataConfig(), images, Hardware(torch.device("cpu"))).save_description(tmp_path)
    path = tmp_path / DATA_FILE
    content = path.read_bytes()
    options = RunOptions(tmp_path, resume=True, overwrite=False)
    assert saved_format(options) == images.format

    @examples(200)
    @given(damages)
    def read(changes: list[Damage]) -> None:
        path.write_bytes(damaged(content, changes))
        read_within_limits(lambda: saved_format(options))

    read()


def test_a_description_that_asks_for_memory(tmp_path: Path) -> None:
    """Sizes of a network that no memory holds."""
    trained().save(tmp_path)
    path = tmp_path / "weights.safetensors"
    with safe_open(path, "pt") as file:
        ((key, text),) = file.metadata().items()
        tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    for field in ("channels", "cells"):
        path.write_bytes(save(tensors, {key: json.dumps(json.loads(text) | {field: 10**12})}))
        with pytest.raises(ValueError, match="do not fit together"):
            Trained.load(tmp_path)
