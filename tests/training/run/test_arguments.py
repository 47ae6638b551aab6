"""Tests of training/run/arguments.py."""

from dataclasses import replace

import pytest

from training.images.arguments import add_data_arguments, data_fields
from training.images.data import DataConfig
from training.run.arguments import TRUTH, Parser, number, whole_number


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="test", allow_abbrev=False)
    parser.add_argument("--count", type=whole_number, default=3)
    parser.add_argument("--share", type=number, default=0.5)
    parser.add_argument("--way", choices=["this", "that"])
    parser.add_argument("--quick", default=False, **TRUTH)
    add_data_arguments(parser)
    return parser


def test_only_the_fields_that_are_given_are_set(parser: Parser) -> None:
    assert data_fields(vars(parser.parse_args(["--count", "4", "--quick"]))) == {}
    given = "--data.name folder --data.size null --data.resize 40 --data.fit stretch --data.gray --data.test_fraction 0.25"
    options = vars(parser.parse_args([*given.split(), "--data.download", "false", "--quick", "true"]))
    assert options["quick"] is True
    expected = {"name": "folder", "size": None, "resize": 40, "fit": "stretch", "gray": True, "test_fraction": 0.25}
    assert data_fields(options) == expected | {"download": False}


def test_what_is_given_are_fields_of_the_data(parser: Parser) -> None:
    options = vars(parser.parse_args(["--data.root=x", "--data.split_seed=2", "--data.workers=1", "--data.loading=workers"]))
    config = replace(DataConfig(), **data_fields(options))
    assert (config.root, config.split_seed, config.workers, config.loading) == ("x", 2, 1, "workers")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count=x"], "--count: must be a whole number, not 'x'"),
        (["--share=x"], "--share: must be a number, not 'x'"),
        (["--quick=yes"], "--quick: must be true or false, not 'yes'"),
        (["--data.size=big"], "--data.size: must be a whole number, not 'big'"),
        (["--data.fit=squeeze"], "--data.fit: must be one of crop, stretch, not 'squeeze'"),
        (["--more"], "unrecognized arguments: --more"),
        (["--count=010"], "--count: must be a whole number, not '010' (a number has decimal digits alone "),
        (["--count=1_000"], "--count: must be a whole number, not '1_000' (a number has decimal digits alone "),
        (["--count= 1"], "--count: must be a whole number, not ' 1'"),
        (["--count=٣"], "--count: must be a whole number, not '٣'"),
        ([f"--count={'9' * 5000}"], "--count: must be a whole number, not '999"),
        ([f"--way={'x' * 5000}"], "--way: invalid choice: 'xxx"),
        (["--share=nan"], "--share: must be a number, not 'nan'"),
        ([f"--{'x' * 5000}"], "unrecognized arguments: --xxx"),
        ([f"--data.fit={'x' * 5000}"], "--data.fit: must be one of crop, stretch, not 'xxx"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(parser: Parser, words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parser.parse_args(words)
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 260
