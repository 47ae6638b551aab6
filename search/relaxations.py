"""From architecture parameters to the mixture that the supernet computes with."""

from collections.abc import Callable, Mapping

from torch import Tensor

Alphas = Mapping[str, Tensor]
Mixture = dict[str, Tensor]
Relaxation = Callable[[Alphas], Mixture]


def softmax(alphas: Alphas) -> Mixture:
    """Softmax over the candidates of each edge, {kind: [..., edges, candidates]} (DARTS, equation 2)."""
    return {kind: table.softmax(-1) for kind, table in alphas.items()}
