"""What all tests share."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Without a GPU kernels run in Triton's interpreter, which has to be chosen before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run in parallel processes (make test), and one thread each is also what makes them repeatable.
torch.set_num_threads(1)

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


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
