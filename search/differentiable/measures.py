"""Measures of the architecture parameters that a search watches."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from supernet import Genotype


def entropy(mixture: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the mean entropy of the edges' mixtures for each kind of cell, in nats.

    At the start of a search it is log(candidates).

    Tables are [..., edges, candidates] with no negative entry. A row counts by its proportions,
    whatever its sum: PC-DARTS multiplies it by the weight of the edge. All-zero rows are edges that
    were taken away and count for nothing; a kind that has no other row has entropy 0.
    """
    found = {}
    for kind, table in mixture.items():
        sums = table.sum(-1, keepdim=True)
        present = sums.squeeze(-1) != 0
        rows = table[present] / sums[present]
        entropies = (rows * rows.clamp_min(1e-30).log()).sum(-1)
        # 0 less the sum: its negative would be -0 where all edges are decided.
        found[kind] = 0.0 - float(entropies.mean()) if len(entropies) else 0.0
    return found


def largest_entropy(keep: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the entropy, in nats, of undecided edges with the candidates in `keep`, bool
    [edges, candidates]."""
    return entropy({kind: table.double() for kind, table in keep.items()})


def skip_connections(genotype: Genotype) -> dict[str, int]:
    """Returns the number of skip connections in each kind of cell: if most edges skip, the search
    has collapsed."""
    return {
        kind: sum(operation == "skip_connect" for feeds in cell.nodes for operation, _ in feeds)
        for kind, cell in genotype.cells.items()
    }


def skip_share(genotype: Genotype) -> dict[str, float]:
    """Returns skip connections as a share in 0..1 of the operations other than none in each kind of
    cell; 0 without any."""
    shares = {}
    for kind, skips in skip_connections(genotype).items():
        operations = sum(operation != "none" for feeds in genotype.cells[kind].nodes for operation, _ in feeds)
        shares[kind] = skips / operations if operations else 0.0
    return shares


def dominant_eigenvalue(
    gradient: Callable[[list[Tensor]], list[Tensor]],
    point: Sequence[Tensor],
    generator: torch.Generator,
    steps: int = 12,
    length: float = 0.1,
) -> float:
    """Returns the eigenvalue of largest magnitude, with its sign, of the Hessian of a loss at
    `point`.

    For the validation loss over the architecture parameters of all kinds of cell it is large if
    genotypes generalise badly (Zela et al., "Understanding and Robustifying Differentiable
    Architecture Search", ICLR 2020, section 4).

    `gradient` takes tensors with the shapes, dtypes and devices of `point` and returns the gradient
    of the loss there. It is called twice in each step of Lanczos' method, of which there are
    `steps`, fewer if the Krylov space is exhausted. The product of the Hessian and a unit vector v
    comes from central differences, (gradient(point + h v) - gradient(point - h v)) / (2 h) with h =
    `length`, since fused kernels can be differentiated only once. Unlike a double backward they see
    the curvature in the kinks of ReLUs, as far as some lie between the two points: the longer h,
    the more of them and the less noise. `generator`, of the CPU, draws the start, so that a seed
    means the same on every device. Returns NaN if a gradient is not finite.
    """
    sizes = [tensor.numel() for tensor in point]

    def gradient_at(shift: Tensor) -> Tensor:
        parts = zip(point, shift.split(sizes), strict=True)
        return _flat(gradient([(_host(tensor) + part.view(tensor.shape)).to(tensor) for tensor, part in parts]))

    direction = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    basis, products = direction.new_empty(0, len(direction)), direction.new_empty(0, len(direction))
    for _ in range(steps):
        unit = direction / torch.linalg.vector_norm(direction)
        product = (gradient_at(length * unit) - gradient_at(-length * unit)) / (2 * length)
        if not product.isfinite().all():
            return math.nan
        basis, products = torch.cat([basis, unit[None]]), torch.cat([products, product[None]])
        direction = product
        for _ in range(2):  # the second time removes the rest that rounding leaves of the basis
            direction = direction - basis.T @ (basis @ direction)
        if torch.linalg.vector_norm(direction) <= 1e-10 * torch.linalg.vector_norm(products, dim=1).max():
            break
    # In exact arithmetic Lanczos' tridiagonal matrix; differences make it a little unsymmetric and
    # fill it with noise.
    projected = basis @ products.T
    eigenvalues = torch.linalg.eigvalsh((projected + projected.T) / 2)
    return float(eigenvalues[eigenvalues.abs().argmax()])


def _host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_host(tensor).flatten() for tensor in tensors])
