"""The score of a sampling search by its configuration, and a score that would change nothing."""

import pytest

from search.random import METHOD
from search.sampling.config import SamplingConfig
from search.sampling.scores.chosen import TABLE_SCORE, chosen_score


def test_a_supernet_has_the_tasks_score() -> None:
    assert chosen_score(SamplingConfig()).name == "accuracy"
    assert chosen_score(SamplingConfig(score="loss")).larger_is_better is False
    assert chosen_score(SamplingConfig(score="macro_f1")).words == "macro F1"


def test_tables_and_proxies_have_scores_of_their_own() -> None:
    assert chosen_score(SamplingConfig(space="nasbench201", evaluate="table", tabular="t.csv")) == TABLE_SCORE
    assert chosen_score(SamplingConfig(evaluate="synflow")).words == "proxy synflow"


@pytest.mark.parametrize("evaluate", ["table", "synflow", "parameters"])
@pytest.mark.parametrize("score", ["loss", "accuracy"])
def test_a_score_beside_them_is_refused(evaluate: str, score: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--space=nasbench201", "--tabular=t.csv", f"--evaluate={evaluate}", f"--score={score}", "--run=runs/never"]
    with pytest.raises(SystemExit, match="2"):
        METHOD.main(arguments)
    said = f"search.random: error: score: {evaluate} has a score of its own; leave it out or set evaluate to supernet\n"
    assert capsys.readouterr().err == said
