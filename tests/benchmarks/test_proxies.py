"""The benchmark of zero-cost proxies, at a small size."""

from pathlib import Path

import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from base.checks import InputError
from benchmarks import proxies
from benchmarks.proxies import Result, Settings, draw, report, score_all
from benchmarks.timing import random_images
from search.costs.tabular import Table
from search.sampling.encoding import Encoding
from search.sampling.scores.proxies import list_proxies
from supernet import get_space
from training.hardware import Hardware
from training.images.data import DataConfig
from training.images.sets import ImageSet
from training.tasks.classification import Classification

HEAD = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10\n"
OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none")
ENCODING = Encoding(get_space("nasbench201"))
SETTINGS = Settings(torch.device("cpu"), architectures=4, seed=3, channels=4, cells=1, batch=6)
SMALL = ["--architectures", "4", "--channels", "4", "--cells", "1", "--batch", "6", "--threads", "1"]


@pytest.fixture
def tabular(tmp_path: Path) -> Path:
    """A table of six architectures, each with its own accuracy."""
    rows = []
    for number, name in enumerate((*OPERATIONS, "nor_conv_3x3")):
        last = "skip_connect" if number == 5 else name
        text = f"|{name}~0|+|{name}~0|{name}~1|+|{name}~0|{name}~1|{last}~2|"
        rows.append(f"{text},{90 - number * number},80,70,{number},{number}\n")
    (tmp_path / "table.csv").write_text(HEAD + "".join(rows))
    return tmp_path / "table.csv"


def test_the_record_has_a_row_for_each_proxy(
    tabular: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[DataConfig, str]] = []

    def load(config: DataConfig, part: str, *more: object) -> ImageSet:
        asked.append((config, part))
        return random_images(20, size=8)

    monkeypatch.setattr("training.tasks.images.load_images", load)
    record = tmp_path / "record.md"
    arguments = ["--tabular", str(tabular), "--data.root", "here", *SMALL, "--record", str(record)]
    assert proxies.main(arguments) == 0
    assert asked == [(DataConfig("cifar10", "here"), "train")]
    text = record.read_text()
    assert capsys.readouterr().out.endswith(f"\n{text}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["proxy", "Kendall's tau", "Spearman's rho", "published rho", "CPU seconds an architecture"]
    assert [row[0] for row in rows[1:]] == list_proxies()
    assert all(-1 <= float(row[1]) <= 1 and float(row[4]) >= 0 for row in rows[1:])
    assert f"torch {torch.__version__}" in text and "seed 0" in text and "`python -m benchmarks.proxies --tabular" in text
    assert "4 architectures drawn from the table, C=4, 1 cells a stage, 6 images of cifar10" in text


def test_the_seed_decides_about_architectures_images_and_weights(tabular: Path) -> None:
    table = Table.read(tabular)
    drawn = draw(table, ENCODING, SETTINGS)
    assert len(drawn) == 4
    for genome, accuracy in drawn.items():
        assert table[ENCODING.genotype(genome)].test_accuracy == accuracy
    assert draw(table, ENCODING, SETTINGS) == drawn
    assert any(draw(table, ENCODING, Settings(SETTINGS.device, 4, seed)) != drawn for seed in range(5))
    task = Classification.of_images(DataConfig(), random_images(20, size=8), Hardware(SETTINGS.device))
    first, again = (score_all(list(drawn), ENCODING, task, SETTINGS) for _ in range(2))
    assert list(first) == list_proxies()
    assert [result.scores for result in first.values()] == [result.scores for result in again.values()]


def test_correlations_are_with_the_accuracies_of_the_same_architectures() -> None:
    scores, accuracies = [1.0, 4.0, 2.0, 3.0, 3.0], [90.0, 94.0, 92.0, 91.0, 93.5]
    text = report({"synflow": Result(scores, 10.0), "constant": Result([1.0] * 5, 0.5)}, accuracies)
    tau, rho = kendalltau(scores, accuracies).statistic, spearmanr(scores, accuracies).statistic
    assert text.splitlines()[2:] == [f"| synflow | {tau:.3f} | {rho:.3f} | 0.74 | 2 |", "| constant | - | - | - | 0.1 |"]


def test_wrong_input_ends_in_one_line(tabular: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--tabular", str(tabular), "--architectures", "7"]
    assert proxies.main(more) == 2
    assert capsys.readouterr().err == "benchmarks.proxies: error: --architectures: the table has 6, not 7\n"
    assert proxies.main(["--tabular", "nowhere.csv"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.proxies: error: tabular: nowhere.csv: no such file")
    with pytest.raises(InputError, match=r"^--batch: must be a whole number of at least 2, not 1$"):
        proxies.main(["--tabular", str(tabular), "--batch", "1"])
