"""`python -m benchmarks.gpu`: all checks and measurements that need a GPU, in one command.

The supernet is held to the plain network on the device, the tests that need a GPU run, a search step is timed, and a short real
search runs. Ends with status 1 if a check fails, 2 where there is no such device.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import benchmarks.search_step
import search.darts
from benchmarks.pairing import copy_weights, pairs, part
from benchmarks.plain_network import PlainSupernet
from search.relaxations import softmax
from supernet import Supernet, get_space
from training.loop import choose_device


def largest_difference(space: str, device: torch.device, dtype: torch.dtype) -> float:
    """Supernet against plain network: logits and gradients of alphas and weights, relative to each tensor's largest entry."""
    torch.manual_seed(0)
    network = Supernet(get_space(space), channels=8, cells=3).to(device, dtype)
    plain = PlainSupernet(space, 8, 3, 10).to(device, dtype)
    copy_weights(network, plain)
    images, labels = torch.randn(8, 3, 17, 16, device=device, dtype=dtype), torch.arange(8, device=device)
    values = get_space(space).new_alphas(scale=1.0, device=device)
    found: list[list[Tensor]] = []
    for net in (network, plain):
        alphas = {kind: alpha.detach().to(dtype).requires_grad_() for kind, alpha in values.items()}
        logits = net(images, softmax(alphas))
        F.cross_entropy(logits, labels).backward()
        found.append([logits.detach(), *(alpha.grad for alpha in alphas.values() if alpha.grad is not None)])
    for parameter, row, other in pairs(network, plain):
        if parameter.grad is not None and other.grad is not None:
            found[0].append(part(parameter.grad, row))
            found[1].append(other.grad)
    return max(((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(*found, strict=True))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ... (cpu tries the command itself)")
    parser.add_argument("--directory", type=Path, default=Path("runs/gpu"), help="where the search writes")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], help="batch sizes of the timed step")
    options = parser.parse_args(argv)
    try:
        device = choose_device(options.device)
    except ValueError as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    failed = 0
    for space in ("darts", "nasbench201"):
        difference = largest_difference(space, device, torch.float64)
        failed += difference > 1e-8
        print(f"{space}: supernet and plain network on {device}, float64: largest relative difference {difference:.1e}")
    failed += subprocess.run([sys.executable, "-m", "pytest", "-q", "-k", "gpu or cuda"]).returncode != 0
    for batch in options.batches:
        benchmarks.search_step.main(["--device", str(device), "--batch", str(batch), "--runs", "10"])
    arguments = ["--config", "digits", "--device", str(device), "--run", str(options.directory / "search"), "--overwrite"]
    failed += search.darts.main(arguments) != 0
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
