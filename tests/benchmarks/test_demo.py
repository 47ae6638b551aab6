"""The demo's comparison of derived cells with random ones, its words, and its ends."""

import math
import shlex
from pathlib import Path

import numpy as np
import pytest

import retrain.__main__
from base.checks import InputError
from benchmarks import demo
from benchmarks.demo import Comparison, Row, compared, next_command, parameters_alone, verdict, write_report
from retrain.api import random_genotype
from retrain.config import RetrainConfig
from training.run.config import config_from_file, shipped_configs

RECIPE = config_from_file(RetrainConfig, shipped_configs()["retrain_demo"])


def row(parameters: int, accuracy: float) -> Row:
    return Row(0, random_genotype("nasbench201", parameters), parameters, accuracy, 1437, 360)


def test_means_are_compared_in_standard_errors_of_their_difference() -> None:
    comparison = Comparison([0.9, 0.92, 0.94], [0.8, 0.82, 0.84, 0.86])
    assert math.isclose(comparison.difference, 0.09)
    first, second = (np.std(sample, ddof=1) for sample in ([0.9, 0.92, 0.94], [0.8, 0.82, 0.84, 0.86]))
    assert math.isclose(comparison.error, math.sqrt(first**2 / 3 + second**2 / 4))


def test_the_claim_needs_two_standard_errors() -> None:
    """Random cells of 0.5 but one differ from 0.9 by little more, or less, than two of them."""
    near, far = [0.9, 0.9, 0.9], [0.1, 0.5, 0.5, 0.5]
    assert Comparison(near, far).difference / Comparison(near, far).error == pytest.approx(5)
    assert Comparison(near, far).holds
    assert not Comparison([0.6, 0.6, 0.6], far).holds
    assert Comparison([0.61, 0.61, 0.61], far).holds


def test_the_claim_needs_three_quarters_of_the_random_cells() -> None:
    """Here the means differ by more than two standard errors in each case."""
    best = [0.91] * 3
    for better, holds in ((5, True), (6, False)):
        random = [0.92] * better + [0.5] * (20 - better)
        comparison = Comparison(best, random)
        assert comparison.difference > 2 * comparison.error
        assert (comparison.above, comparison.holds) == (20 - better, holds)
    assert Comparison([0.9, 0.9], [0.9, 0.8]).above == 1  # as good is not worse


def test_parameters_are_said_to_explain_what_they_explain() -> None:
    others = [row(1000, 0.5), row(2000, 0.6), row(3000, 0.7)]
    said = parameters_alone([row(1000, 0.9), row(3000, 0.9)], others)
    assert said.endswith("is +1.00; the 2 that are as large as the mean derived cell, or larger, have a mean of 0.6500.")
    assert parameters_alone([row(4000, 0.9)], others).endswith("; none is as large as the mean derived cell.")


def test_verdict_says_whether_the_claim_holds() -> None:
    assert verdict(Comparison([0.9, 0.9, 0.9], [0.1, 0.5, 0.5, 0.5])) == (
        "The search pays: the mean of the derived cells less that of the random ones is 5.0 standard errors of the difference, "
        "and it is above 4 of 4 random cells."
    )
    assert verdict(Comparison([0.4, 0.5], [0.4, 0.5])).startswith("The search does not pay here: ")


def test_table_and_page_have_every_figure(tmp_path: Path) -> None:
    derived = [row(20_000, 0.91), row(30_000, 0.93)]
    others = [row(10_000, 0.5), row(40_000, 0.7)]
    comparison = Comparison([0.91, 0.93], [0.5, 0.7])
    text = compared(derived, others, comparison, RECIPE)
    for figure in (
        "20,000",
        "0.9100",
        "0.9200",
        "0.6000",
        "+0.3200",
        "0.1000",
        "1,437 to train, 360",
        f"{RECIPE.epochs} epochs",
        "25,000",
    ):
        assert figure in text, figure
    page = write_report(tmp_path, derived, others, comparison, text).read_text()
    for one in derived + others:
        assert one.genotype.to_text("nasbench201") in page and f"{one.parameters:,}" in page


def test_next_command_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, module, *arguments = shlex.split(next_command(Path("my runs"), 3, RECIPE))
    assert module == "retrain"
    with pytest.raises(SystemExit) as end:
        retrain.__main__.main([*arguments, "--print_config"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"epochs: {10 * RECIPE.epochs}\n" in said and "genotype: my runs/derived_3/genotype.json" in said


def test_exit_status_is_the_claim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for holds, status in ((True, 0), (False, 1)):
        monkeypatch.setattr(demo, "demonstrate", lambda directory, number, holds=holds: holds)
        assert demo.main(["--directory", str(tmp_path)]) == status


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^--set: must be a whole number of at least 0, not -1$"):
        demo.main(["--set", "-1"])
    (tmp_path / "file").touch()
    assert demo.main(["--directory", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"demo: error: {tmp_path / 'file'}: is a file; choose another directory\n"
