"""`python -m benchmarks.search_step`: time and memory of one search step, ours beside the plain network's.

A search step is a validation pass for the alphas and a training pass for the weights with both optimisers, first order, DARTS
space. The plain network has one module an edge and operation and calls `loss.backward()` in both passes, as published.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.plain_network import PlainSupernet
from search.bilevel import first_order
from search.relaxations import softmax
from supernet import Supernet, get_space
from training.optim import OptimizerConfig, new_optimizer, requiring_no_grad

Step = Callable[[Tensor, Tensor], None]


def search_step(network: nn.Module, published: bool, device: torch.device) -> Step:
    """One step of both levels; `published` computes weight gradients in the architecture pass, too, and does not use them."""
    alphas = get_space("darts").new_alphas(device=device)
    weights = new_optimizer(OptimizerConfig(), network.parameters())
    architecture = torch.optim.Adam(alphas.values(), 3e-4, (0.5, 0.999), weight_decay=1e-3)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images, softmax(alphas)), labels)

    def step(images: Tensor, labels: Tensor) -> None:
        architecture.zero_grad()
        if published:
            loss(images, labels).backward()
        else:
            with requiring_no_grad(network.parameters()):
                for alpha, gradient in zip(
                    alphas.values(), first_order(loss(images, labels), list(alphas.values())), strict=True
                ):
                    alpha.grad = gradient
        architecture.step()
        weights.zero_grad()
        if published:
            loss(images, labels).backward()
        else:
            F.cross_entropy(network(images, {k: v.detach() for k, v in softmax(alphas).items()}), labels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        weights.step()

    return step


def saved_megabytes(network: nn.Module, images: Tensor) -> float:
    """What a training pass keeps for backward, each storage once, weights left out, in MB an image."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(images, softmax(get_space("darts").new_alphas(device=images.device)))
    assert logits.requires_grad
    return sum(kept.values()) / len(images) / 1e6


def variants(channels: int, cells: int, device: torch.device) -> dict[str, tuple[nn.Module, bool, torch.memory_format]]:
    """Name -> (network, as published?, memory format of the images)."""
    torch.manual_seed(0)
    return {
        "plain, NCHW": (PlainSupernet("darts", channels, cells, 10).to(device), True, torch.contiguous_format),
        "plain, channels_last": (PlainSupernet("darts", channels, cells, 10).to(device), True, torch.channels_last),
        "ours": (Supernet(get_space("darts"), channels, cells, 10).to(device), False, torch.channels_last),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.search_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", type=int, default=16, help="C of the first cells")
    parser.add_argument("--cells", type=int, default=8, help="number of cells")
    parser.add_argument("--batch", type=int, default=16, help="images a pass")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--runs", type=int, default=5, help="paired runs: one step of each variant in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda ...")
    options = parser.parse_args(argv)
    device: torch.device = options.device
    torch.set_num_threads(options.threads)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    labels = torch.randint(0, 10, (options.batch,), device=device)
    networks = variants(options.channels, options.cells, device)
    inputs = {name: images.contiguous(memory_format=memory) for name, (_, _, memory) in networks.items()}
    steps = {name: search_step(network, published, device) for name, (network, published, _) in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for run in range(options.runs + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(inputs[name], labels)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if run:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    print(
        f"{platform.machine()} CPU, {options.threads} threads, torch {torch.__version__}, Python {platform.python_version()}, ",
        end="",
    )
    print(f"{datetime.now(UTC):%Y-%m-%d}, {options.runs} paired runs, float32")
    print(f"DARTS space, C={options.channels}, {options.cells} cells, batch {options.batch}, {options.size}x{options.size}\n")
    print("| network | median ms a step | ratio to plain NCHW (median of pairs) | saved for backward, MB an image |")
    print("|---|---|---|---|")
    base = seconds["plain, NCHW"]
    for name, (network, _, _) in networks.items():
        ratio = statistics.median(own / reference for own, reference in zip(seconds[name], base, strict=True))
        saved = saved_megabytes(network, inputs[name])
        print(f"| {name} | {1000 * statistics.median(seconds[name]):.0f} | {ratio:.2f} | {saved:.1f} |")


if __name__ == "__main__":
    main()
