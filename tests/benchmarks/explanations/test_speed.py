"""The time of an explanation beside that of an epoch."""

import re

import pytest

from benchmarks.explanations.speed import main


@pytest.mark.slow
def test_both_are_timed_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    size = {"images": 64, "side": 8, "cells": 3, "channels": 4, "batch_size": 16, "runs": 2}
    assert main([f"--{name}={value}" for name, value in size.items()]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"turn \d: epoch [\d.]+ s, explanation [\d.]+ s, [\d.]+ epochs", said)) == 2
    assert re.search(r"median: [\d.]+ epochs", said)
