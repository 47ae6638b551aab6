"""`python -m benchmarks.bits`: checks that tiny runs still end with the same bits.

There is a search by every method, and a retraining. Each run ends in hashes of its tensors
(weights, statistics, alphas, states of the optimisers), of its genotype and of its history.
`--record FILE` writes them; `--compare FILE` runs the same again and names each hash that differs,
with exit status 1. A change of structure is compared with a record from before it, on the same
machine: another one rounds sums differently. Runs take one thread, three epochs and scikit-learn's
digits, a few minutes in all.
"""

import contextlib
import hashlib
import importlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from base.files import write_atomically
from search.differentiable.method import DifferentiableMethod
from search.methods import get_method, list_methods
from training.run.arguments import Parser
from training.run.command import command

SPACES = ("darts", "nasbench201")
_DATA = "--data.name digits --data.limit 80 --data.crop_padding 1 --device cpu --threads 1 --log_every 2"
_SEARCH = f"{_DATA} --epochs 3 --batch_size 16 --weights.lr 0.05"
_SIZES = {"darts": "--space darts --channels 4 --cells 3", "nasbench201": "--space nasbench201 --channels 4 --cells 1"}
_GRADIENT = "--alphas.lr 0.05 --eigenvalue_every 2"
_SAMPLING = "--evaluations 6 --round 3 --recalibrate 1"
# Options that fit the published settings of a method to so small a search.
_OWN = {
    "drnas": "--channels 12 --stages.keep [2] --alphas.warmup 0.3",
    "darts_pt": "--selection.tune_epochs 1",
    "shapley": "--alphas.warmup 0.3 --shapley.permutations 2 --shapley.batch 32",
    "evolution": "--evolution.population 3 --evolution.sample 2",
    "bayes": "--bayes.initial 3 --bayes.batch 2",
    "enas": "--guide 4 --controller.batch 2 --controller.hidden 8",
    "hybrid": "--guide 4 --controller.batch 2 --controller.hidden 8 --hybrid.population 3",
    "nao": "--nao.initial 3 --nao.proposals 2 --nao.seeds 2 --nao.updates 5 --nao.hidden 8",
}
# Mechanisms that are no method by themselves.
_VARIANTS = {
    "darts second order": ("darts", "--order second"),
    "darts exact": ("darts", "--order second --hessian_vector exact"),
    "darts untied": ("darts", "--tie_cells false"),
    "random fair": ("random", "--paths fair --halving.eta 2 --halving.smallest 0.5"),
    "random prefiltered": ("random", "--prefilter.proxy parameters --prefilter.factor 2"),
    "evolution synflow": ("evolution", "--evaluate synflow"),
}
_RETRAIN = f"{_DATA} --epochs 3 --batch_size 16 --channels 4 --cells 3 --validation_fraction 0.2"


def runs() -> Iterator[tuple[str, str, list[str]]]:
    """Yields (name, module of the command, arguments) of every run that is compared."""
    named = {method: (method, "") for method in list_methods()} | _VARIANTS
    for space in SPACES:
        for name, (method, more) in named.items():
            family = _GRADIENT if isinstance(get_method(method), DifferentiableMethod) else _SAMPLING
            partial = "--channels 8" if method == "pcdarts" else ""
            words = f"{_SEARCH} {_SIZES[space]} {family} {partial} {_OWN.get(method, '')} {more}".split()
            yield f"{name}, {space}", f"search.{method}", words
    yield "retrain DARTS_V2", "retrain.__main__", f"--genotype DARTS_V2 {_RETRAIN}".split()


def hashes(run: Path) -> dict[str, str]:
    """Returns the hash of each kind of result that the directory of a finished run holds."""
    latest = max((run / "checkpoints").glob("epoch_*.pt"))
    _, _, payload = latest.read_bytes().partition(b"\n")
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)["state"]
    # Tensors are hashed by content alone, so that a name in the state may change and a bit may not.
    tensors = sorted(_of_tensor(leaf) for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))
    found = {"tensors": _hash("".join(tensors).encode())}
    genotype = json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    found["genotype"] = _hash(json.dumps(genotype["cells"]).encode())
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    # An entry that was not measured may be null or left out.
    entries = [{name: value for name, value in json.loads(line).items() if value is not None} for line in lines]
    return found | {"history": _hash(json.dumps(entries, sort_keys=True).encode())}


def _of_tensor(tensor: torch.Tensor) -> str:
    content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return _hash(f"{tensor.dtype} {list(tensor.shape)} ".encode() + content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def measure(wanted: Callable[[str], bool]) -> dict[str, dict[str, str]]:
    """Returns the hashes of all runs whose names are `wanted`.

    Raises RuntimeError if one ends with another status than 0.
    """
    found = {}
    for name, module, words in runs():
        if not wanted(name):
            continue
        with tempfile.TemporaryDirectory() as directory:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    status = importlib.import_module(module).main([*words, "--run", f"{directory}/run"])
                except SystemExit as error:
                    status = error.code
            if status:
                raise RuntimeError(f"{name}: exit status {status}\n{said.getvalue()[-2000:]}")
            found[name] = hashes(Path(directory) / "run")
        print(f"{name}: {' '.join(f'{kind} {value}' for kind, value in found[name].items())}", flush=True)
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns a line for each hash of `now` that is new or another one than before."""
    return [
        f"{name}: {kind} was {before.get(name, {}).get(kind, 'not recorded')}, is {value}"
        for name, kinds in now.items()
        for kind, value in kinds.items()
        if before.get(name, {}).get(kind) != value
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.bits", description=(__doc__ or "").splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--record", type=Path, metavar="FILE", help="write the hashes to this file")
    task.add_argument("--compare", type=Path, metavar="FILE", help="compare with the hashes in this file")
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose names hold this text")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    before = None if options.compare is None else json.loads(options.compare.read_text(encoding="utf-8"))
    found = measure(lambda name: options.only in name)
    about = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    if before is None:
        write_atomically(options.record, json.dumps({"about": about, "runs": found}, indent=1) + "\n")
        return 0
    if before["about"] != about:
        print(f"recorded with {before['about']}, compared with {about}: bits may differ for that", file=sys.stderr)
    changed = differences(before["runs"], found)
    print("\n".join(changed) or f"{len(found)} runs, the same bits")
    return int(bool(changed))


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.bits", main))
