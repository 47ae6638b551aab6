"""Threads of a call: torch's where its runtime is there, or of one call."""

import subprocess
from pathlib import Path

import pytest

from ops.native import library

PROGRAM = """
#include <cstdio>
#include "team.h"

// Each member writes the number of the round, and after a meeting sees that of all others.
int main() {
    constexpr int most = 3;
    int written[most] = {}, met = 0, wrong = 0, ran = 0;
    std::atomic<int> seen{0};
    for (int call = 0; call < 20; call++)
        in_team(most, [&](int number, int members, Meeting& meeting) {
            seen++;
            if (number == 0) met = members;
            for (int round = 1; round <= 200; round++) {
                written[number] = round;
                meeting.wait();
                for (int other = 0; other < members; other++)
                    if (written[other] != round) wrong++;
                meeting.wait();
            }
        });
    in_team(1, [&](int number, int members, Meeting& meeting) { meeting.wait(), ran = 10 * number + members; });
    std::printf("%d %d %d %d %d\\n", has_torch_threads(), met, seen.load(), wrong, ran);
}
"""


@pytest.mark.parametrize("runtime", [True, False], ids=["torch's", "own"])
def test_members_wait_for_each_other(tmp_path: Path, runtime: bool) -> None:
    try:
        compiler = library.find_compiler()
    except library.CannotBuild as error:
        pytest.skip(str(error))
    source, program = tmp_path / "team.cpp", tmp_path / "team"
    source.write_text(PROGRAM)
    links = ["-Wl,--no-as-needed", "-lgomp"] if runtime else []
    folder = Path(library.__file__).parent
    command = [compiler, "-std=c++20", "-O2", "-pthread", f"-I{folder}", str(source), "-o", str(program), *links]
    if subprocess.run(command, capture_output=True).returncode and runtime:
        pytest.skip("needs the compiler's OpenMP runtime")
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(runtime)), "3", "60", "0", "1"]
