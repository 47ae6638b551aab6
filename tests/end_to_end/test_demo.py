"""`make demo` on other seeds than its own: the claim holds, and the command that it ends with works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_search_pays(tmp_path: Path) -> None:
    done = start([sys.executable, "-m", "benchmarks.demo", "--directory", str(tmp_path), "--set", "1"])
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"This takes about [\d.]+ minutes on 2 idle cores", lines[0])
    assert len(re.findall(r"^derived cell, seed \d", done.stdout, re.MULTILINE)) == 3
    said = " ".join(lines[lines.index(next(line for line in lines if line.startswith("The search pays"))) :])
    found = re.match(r"The search pays: .* is ([\d.]+) standard errors .* above (\d+) of (\d+) random cells\.", said)
    assert found and float(found[1]) >= 2 and int(found[2]) >= 0.75 * int(found[3]) >= 6
    picture, report = (Path(re.search(rf"^{name}.*: (.*)$", done.stdout, re.MULTILINE)[1]) for name in ("Picture", "Report"))
    assert picture.read_bytes().startswith(b"\x89PNG") and "random cells" in report.read_text()
    assert start([*shlex.split(lines[-1]), "--epochs", "1"]).returncode == 0
    # README shows the output of set 0, of which the description does not depend on seeds.
    (described,) = re.findall(r"^Compared: .*?\n\n", done.stdout, re.MULTILINE | re.DOTALL)
    assert described in (ROOT / "README.md").read_text()
