"""`python -m benchmarks.gpu`: all checks and measurements that need a GPU, in one command.

- agree: the supernet on kernels against the plain network in float64
- tests: all tests that use a GPU
- step, retrain: the tables of `benchmarks.search_step` and `benchmarks.retrain_step`
- profile: kernels by time, with and without a graph
- memory: peak memory of ours and of the plain network
- converge: the loss curves of a search by kernels and by plain torch
- methods: a step of every method by its published protocol on NAS-Bench-201
- search: a whole search by the clock, on CIFAR-10 with --data

Each part runs in a process of its own, so that none takes the others along, and leaves records in
the directory. It ends with a line for each part, and with status 1 if one failed, 2 if there is no
such device. A goal that is missed is no failure; the lines count them.
"""

import argparse
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from base.files import write_atomically
from base.texts import one_line
from benchmarks.floor import add_rates, rates_of
from benchmarks.gpu_parts import PARTS, Job, Verdict, run_part
from benchmarks.timing import at_least, command_line, header
from training.hardware import choose_device


def judge(name: str, job: Job) -> Verdict:
    """Runs the part in a fresh process; any end of it is a verdict, too."""
    print(f"== {name}", flush=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(run_part, name, job).result()
        except Exception as error:
            traceback.print_exc()
            return Verdict(False, f"{type(error).__name__}: {one_line(error)}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ... (cpu tries the command itself, in small)")
    parser.add_argument("--directory", type=Path, default=Path("runs/gpu"), help="where the records go")
    parser.add_argument("--data", help="folder above cifar-10-batches-py; without it random images and digits stand in")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--epochs", type=at_least(1), default=50, help="of the whole search on CIFAR-10")
    parser.add_argument("--compile-limit", type=float, default=600.0, help="most seconds for torch.compile (0: leave it out)")
    add_rates(parser)
    options = parser.parse_args(argv)
    try:
        device = choose_device(options.device)
        options.directory.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"benchmarks.gpu: error: {one_line(error)}", file=sys.stderr)
        return 2
    command = command_line("benchmarks.gpu", argv)
    job = Job(str(device), options.directory, options.data, options.epochs, options.compile_limit, rates_of(options), command)
    verdicts = {name: judge(name, job) for name in options.only}
    lines = [f"{name:9}{'passed' if verdict.passed else 'FAILED'}  {verdict.words}" for name, verdict in verdicts.items()]
    listed = "".join(f"    {line}\n" for line in lines)
    write_atomically(options.directory / "summary.md", f"# Summary\n\n{header(device)}\n\n{command}\n\n{listed}")
    print("\n".join(lines))
    return int(not all(verdict.passed for verdict in verdicts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
