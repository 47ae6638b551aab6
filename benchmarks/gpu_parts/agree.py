"""The kernels against the plain network in float64."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import copy_weights, pairs, part, softmax
from supernet import Supernet, get_space
from supernet.cell import Kernels
from training.report.markdown import table


@dataclass(frozen=True)
class Difference:
    """The difference between a supernet and the plain network in float64."""

    largest: float
    """Largest difference of logits and of gradients of alphas and weights, relative to each
    tensor's largest entry."""
    turned: float
    """1 - cosine of the alphas' gradients, the larger one of all kinds."""


def difference(
    space: str, device: torch.device, dtype: torch.dtype, kernels: Kernels = "auto", channels: int = 16
) -> Difference:
    """Compares supernet (bfloat16: autocast) and plain network on the device; TF32 is off."""
    torch.manual_seed(0)
    network = Supernet(get_space(space), channels, 3, kernels=kernels).to(device)
    plain = PlainSupernet(space, channels, 3, 10).to(device, torch.float64)
    copy_weights(network, plain)
    mixed = dtype == torch.bfloat16
    network = network if mixed else network.to(dtype)
    images, labels = torch.randn(8, 3, 17, 16, device=device), torch.arange(8, device=device)
    values = get_space(space).new_alphas(scale=1.0, device=device)
    found: list[list[Tensor]] = []
    gradients: list[list[Tensor]] = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for net, precise in ((network, torch.float32 if mixed else dtype), (plain, torch.float64)):
            alphas = {kind: alpha.detach().to(precise).requires_grad_() for kind, alpha in values.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed and net is network):
                logits = net(images.to(precise), softmax(alphas))
            F.cross_entropy(logits.to(precise), labels).backward()
            gradients.append([alpha.grad.double() for alpha in alphas.values() if alpha.grad is not None])
            found.append([logits.detach().double(), *gradients[-1]])
    for parameter, row, other in pairs(network, plain):
        if parameter.grad is not None and other.grad is not None:
            found[0].append(part(parameter.grad, row).double())
            found[1].append(other.grad)
    largest = max(((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(*found, strict=True))
    cosines = [cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) for ours, theirs in zip(*gradients, strict=True)]
    return Difference(largest, 1 - min(cosines).item())


SPACES = ("darts", "nasbench201")
LIMITS = {torch.float64: (1e-8, 1e-9), torch.float32: (3e-2, 1e-5)}
"""Largest difference, and largest 1 - cosine. In float64 plain torch runs; in float32 a ReLU or a
maximum that falls on the other side is in the difference of a weight's gradient."""
COLUMNS = ["space", "precision", "largest relative difference", "limit", "1 - cosine of alpha gradients", "limit", "within"]
BFLOAT16 = 3.0
"""In bfloat16 the whole network, untrained, is far from float64: so many times as far as plain
torch in bfloat16 it may be."""


def run(job: Job) -> Verdict:
    """Compares logits and gradients of the supernet, on kernels, with the plain network in
    float64."""
    kernels: Kernels = "fused" if job.small else "auto"
    channels = 2 if job.small else 16
    rows, passed, words = [], True, ""
    for space in SPACES:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            found = difference(space, job.place, dtype, kernels, channels)
            if dtype == torch.bfloat16:
                plain = difference(space, job.place, dtype, "reference", channels)
                largest, turned = BFLOAT16 * plain.largest, BFLOAT16 * plain.turned
            else:
                largest, turned = LIMITS[dtype]
            good = found.largest <= largest and found.turned <= turned
            passed &= good
            numbers = [f"{value:.1e}" for value in (found.largest, largest, found.turned, turned)]
            rows.append([space, str(dtype).removeprefix("torch."), *numbers, "yes" if good else "no"])
            job.write("agree", table(COLUMNS, rows), rows)
            words = f"{sum(row[-1] == 'yes' for row in rows)} of {len(rows)} comparisons within their limits"
            job.tell(words)
    return Verdict(passed, words)
