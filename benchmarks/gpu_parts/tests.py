"""Runs all tests that use a GPU."""

import importlib.util
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from base.texts import one_line
from benchmarks.gpu_parts.job import Job, Verdict
from training.report.markdown import table

ROOT = Path(__file__).parents[2]
KERNELS = [ROOT / "tests/ops/kernels", ROOT / "tests/ops/test_fused.py"]
WORKERS = 8
EVERY = 2.0
"""Seconds after which the record is written again."""


def others() -> list[Path]:
    """Returns the other files with tests whose name says that they need a GPU."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if not any(map(path.is_relative_to, KERNELS))]
    named = [path for path in files if re.search(r"def test_\w*(gpu|cuda)", path.read_text(encoding="utf-8"))]
    # That of this command is none of them.
    return [path for path in named if path.name != "test_gpu.py"]


class Tally:
    """A plugin of pytest: it counts what tests come to, and keeps the record up to date."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []
        self._written = 0.0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            self.counts["collected"] += len(session.items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._count("errors", report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._count("failed" if report.when == "call" else "errors", report)
        elif report.skipped:
            self._count("skipped")
        elif report.when == "call":
            self._count("passed")

    def _count(self, what: str, report: pytest.CollectReport | pytest.TestReport | None = None) -> None:
        self.counts[what] += 1
        if report is not None:
            reason = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.failures.append((report.nodeid, one_line(reason[0][1:]) if reason else what))
        if report is not None or time.monotonic() - self._written > EVERY:
            self.write()

    @property
    def words(self) -> str:
        """Returns the counts in one line."""
        return ", ".join(f"{count} {what}" for what, count in self.counts.items()) or "no tests"

    def write(self) -> None:
        """Writes the record."""
        self._written = time.monotonic()
        text = f"{self.words}\n" + (f"\n{table(['test', 'reason'], self.failures)}" if self.failures else "")
        self.job.write("tests", text, {"counts": self.counts, "failures": self.failures})
        self.job.tell(self.words)


def run(job: Job) -> Verdict:
    """Runs the tests of kernels, in several processes as most of their time goes into compiling,
    then the others; the CPU only collects them."""
    if importlib.util.find_spec("hypothesis") is None:
        raise ModuleNotFoundError("the tests need hypothesis", name="hypothesis")
    tally, passed = Tally(job), True
    workers = min(WORKERS, os.cpu_count() or 1)
    has_workers = workers > 1 and not job.small and importlib.util.find_spec("xdist") is not None
    parallel = ["-n", str(workers)] if has_workers else []
    for selected, options in ((KERNELS, parallel), (others(), ["-k", "gpu or cuda"])):
        arguments = ["-c", str(ROOT / "pyproject.toml"), "--tb=short", *map(str, selected)]
        passed &= pytest.main([*arguments, *options, *(["--collect-only", "-q"] if job.small else [])], plugins=[tally]) == 0
    tally.write()
    return Verdict(passed, tally.words)
