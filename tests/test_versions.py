"""The versions that setup.cfg admits, those that constraints.txt pins, those that run and those that the pages name."""

import configparser
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
REQUIRED = {
    canonicalize_name(requirement.name): requirement
    for lines in (CONFIG["options"]["install_requires"], *CONFIG["options.extras_require"].values())
    for requirement in map(Requirement, lines.split("\n")[1:])
}
PINS = {
    canonicalize_name(name): pin
    for name, pin in re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
VERSIONS = (ROOT / "docs" / "dependencies.md").read_text()
BUILD_TOOLS = {"setuptools", "wheel"}
"""Packages that have no pin: torch or the environment brings them."""


def test_every_package_is_pinned_to_a_version_that_is_admitted() -> None:
    assert PINS.keys() == REQUIRED.keys() - BUILD_TOOLS
    refused = [f"{name}=={pin}" for name, pin in PINS.items() if not REQUIRED[name].specifier.contains(pin)]
    assert refused == []


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_the_tests_run_with_a_version_that_is_admitted(name: str) -> None:
    """Passing with another one would say nothing about what setup.cfg promises."""
    requirement = REQUIRED[name]
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip("not needed on this system")
    assert requirement.specifier.contains(version(name))


def test_extras_ask_for_the_same_versions() -> None:
    """The tests need what users of the other extras need."""
    lines = {extra: set(filter(None, value.split("\n"))) for extra, value in CONFIG["options.extras_require"].items()}
    assert lines["bayes"] | lines["export"] <= lines["test"]


def test_the_page_of_dependencies_names_the_versions() -> None:
    """Every package that has a bound, from that bound to its pin."""
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", VERSIONS, re.MULTILINE)
    bounded = {name: requirement for name, requirement in REQUIRED.items() if requirement.specifier}
    assert {canonicalize_name(name): (SpecifierSet(f">={first}"), pin) for name, first, pin in rows} == {
        name: (requirement.specifier, PINS[name]) for name, requirement in bounded.items()
    }


def test_the_page_of_dependencies_names_every_package() -> None:
    named = {canonicalize_name(name) for name in re.findall(r"\*\*([\w-]+)\*\*", VERSIONS.partition("## Versions")[0])}
    assert named == {name for name in REQUIRED if not name.startswith("types-")}


def test_no_other_page_names_versions_to_install() -> None:
    named = "|".join(requirement.name for requirement in REQUIRED.values())
    install = re.compile(rf"\b({named})\b\s*([=<>~]=?\s*\d|\d[\d.]* (to|or newer))", re.IGNORECASE)
    assert (
        install.search("torch==2.13.0")
        and install.search("torch 2.11 to 2.14")
        and not install.search("torch 2.13.0, 1 thread")
    )
    assert [page.name for page in PAGES if install.search(page.read_text())] == []


def test_the_table_of_builds_is_of_the_pinned_triton() -> None:
    table = (ROOT / "benchmarks" / "results" / "aot_sm90.md").read_text()
    assert f"Triton {PINS['triton']}, torch {PINS['torch']}" in table
    assert f"by Triton {PINS['triton']}" in (ROOT / "docs" / "performance.md").read_text()


def test_python_is_the_same_everywhere() -> None:
    oldest = CONFIG["options"]["python_requires"].removeprefix(">=")
    major, minor = map(int, oldest.split("."))
    classified = re.findall(r"Python :: (\d+\.\d+)", CONFIG["metadata"]["classifiers"])
    assert classified == [f"{major}.{minor + step}" for step in range(len(classified))]
    assert f"Python {oldest} to {classified[-1]}." in VERSIONS
    for page in (ROOT / "README.md", ROOT / "findings" / "README.md"):
        assert re.findall(r"Python (\d[\d.]*) or newer", page.read_text()) == [oldest]
    makefile = (ROOT / "Makefile").read_text()
    assert f"sys.version_info < ({major}, {minor})" in makefile and f"needs Python {oldest} or newer" in makefile
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert (tools["mypy"]["python_version"], tools["ruff"]["target-version"]) == (oldest, f"py{major}{minor}")
