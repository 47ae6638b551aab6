"""The architecture parameters of a search, and all ways from them to a mixture."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from base.seeds import new_generator
from search.differentiable.regularisers import RegulariserConfig, get_regulariser
from search.differentiable.relaxations import Mixture, RelaxationConfig, get_relaxation, masked_softmax
from supernet import Path, SearchSpace
from training.optim import linear
from training.schedule import Extension, Phases

Drawn = tuple[Mixture, Path | None]
"""A mixture and, if it has one operation an edge, the path that alone runs under it."""


class Architecture:
    """Alphas {kind: [edges, candidates]} and, with edge normalisation, betas {kind: [edges]};
    untied, a table a cell.

    A weight of the mixture is relaxation(alpha), times the softmax of beta over the edges that
    enter the same node (PC-DARTS, Xu et al. 2020, section 3.3), plus the auxiliary skip connection
    (DARTS-, Chu et al. 2021). Numbers that follow a schedule are scalars on the device, as a CUDA
    graph reads them there.
    """

    def __init__(
        self,
        space: SearchSpace,
        keep: Mapping[str, Tensor],
        cells: Mapping[str, int] | None,
        device: torch.device,
        epochs: int,
        seed: int = 0,
        scale: float = 1e-3,
        edge_normalization: bool = False,
        auxiliary_skip: float = 0.0,
        relaxation: RelaxationConfig | None = None,
        regulariser: RegulariserConfig | None = None,
        extended: Sequence[tuple[int, Extension]] = (),
    ) -> None:
        """Draws alphas and betas of standard deviation `scale` from `seed`.

        `keep` is what `restrict` takes. `cells` is the number of cells of each kind, where each has
        a table of its own; None: they share one. `auxiliary_skip` is the weight of the auxiliary
        skip connection in the first of so many `epochs`. A relaxation or regulariser that is None
        is that of DARTS. `extended` is as in `training.schedule.Phases`.
        """
        self.space = space
        self._phases = Phases(epochs, extended)
        self._relaxation, self._regulariser = relaxation or RelaxationConfig(), regulariser or RegulariserConfig()
        self._auxiliary_skip = auxiliary_skip
        self.relaxation = get_relaxation(self._relaxation.name)
        generator = new_generator(seed, "alphas")
        self.alphas = space.new_alphas(cells, scale, generator, device)
        self.betas: dict[str, nn.Parameter] = {}
        if edge_normalization:
            self.betas = {
                kind: nn.Parameter((scale * torch.randn(alpha.shape[:-1], generator=generator)).to(device))
                for kind, alpha in self.alphas.items()
            }
        self._device = device
        self._temperature, self._auxiliary, self._penalty = (torch.zeros((), device=device) for _ in range(3))
        self._skip = torch.tensor([name == "skip_connect" for name in space.candidates], device=device)
        targets = torch.tensor([target for _, target in space.edges])
        self._same_node = (targets.unsqueeze(0) == targets.unsqueeze(1)).to(device)
        self.restrict(keep)
        self.begin_epoch(0)

    def parameters(self) -> list[nn.Parameter]:
        """Returns all parameters that the architecture optimiser trains."""
        return [*self.alphas.values(), *self.betas.values()]

    def restrict(self, keep: Mapping[str, Tensor]) -> None:
        """Gives weights, from now on, to the candidates in `keep` {kind: bool [edges, candidates]}
        alone."""
        self.keep = {kind: table.cpu() for kind, table in keep.items()}
        self._keep = {kind: table.to(self._device) for kind, table in keep.items()}

    def begin_epoch(self, epoch: int) -> None:
        """Sets everything that follows a schedule to its value in that epoch (from 0)."""
        relaxation, regulariser = self._relaxation, self._regulariser
        epoch, epochs = self._phases.place(epoch)
        self._temperature.fill_(linear(epoch, epochs, relaxation.temperature, relaxation.temperature_end))
        self._penalty.fill_(linear(epoch, epochs, regulariser.weight, regulariser.weight_end))
        self._auxiliary.fill_(self._auxiliary_skip * max(0.0, 1 - epoch / epochs))

    def schedule(self) -> dict[str, float]:
        """Returns the values that follow a schedule and are in use, for the curves."""
        used = {
            "temperature": (self._temperature, self.relaxation.tempered),
            "auxiliary_skip": (self._auxiliary, self._auxiliary_skip > 0),
            "regulariser": (self._penalty, self._regulariser.name != "none"),
        }
        return {name: float(value) for name, (value, in_use) in used.items() if in_use}

    def draw(self) -> Drawn:
        """Draws a mixture for one step, differentiable in the parameters."""
        tables = {
            kind: self._normalized(kind, self.relaxation.sample(alpha, self._keep[kind], self._temperature))
            for kind, alpha in self.alphas.items()
        }
        return self.with_skip(tables), self._path(tables)

    def mean(self, alphas: Mapping[str, Tensor] | None = None) -> Mixture:
        """Returns the mixture that a genotype is derived from: nothing random, no auxiliary skip.

        It is that of `alphas`, if they are given, instead of the present ones.
        """
        alphas = self.alphas if alphas is None else alphas
        return {kind: self._normalized(kind, self.relaxation.mean(alpha, self._keep[kind])) for kind, alpha in alphas.items()}

    @torch.no_grad()
    def bypass(self, mixture: Mixture) -> Mixture:
        """Returns the scales, {kind: [..., edges]}, of the channels that pass the operations by
        (`Supernet.forward`) under a mixture from which something was taken away.

        They stay as they are, until the whole edge is gone: the operation is what is missing.
        """
        return {kind: table.sum(-1) * mixture[kind].any(-1) for kind, table in self.mean().items()}

    @torch.no_grad()
    def evaluated(self) -> Drawn:
        """Returns the mixture for the supernet's accuracy: nothing random, the strongest path if
        steps have one path."""
        mean = self.mean()
        if not self.relaxation.one_path:
            return self.with_skip(mean), None
        hard = {kind: torch.zeros_like(table).scatter(-1, table.argmax(-1, keepdim=True), 1.0) for kind, table in mean.items()}
        tables = {kind: self._normalized(kind, table * self._keep[kind]) for kind, table in hard.items()}
        return tables, self._path(tables)

    def penalty(self) -> Tensor | None:
        """Returns the weighted regulariser, a scalar; None if there is none."""
        name = self._regulariser.name
        if name == "none":
            return None
        penalty = get_regulariser(name).penalty
        values = [penalty(alpha, self._keep[kind]) for kind, alpha in self.alphas.items()]
        return self._penalty * torch.stack(values).sum()

    def _normalized(self, kind: str, table: Tensor) -> Tensor:
        """Multiplies each edge's weights by its share among the edges into the same node."""
        if not self.betas:
            return table
        present = self._keep[kind].any(-1)
        shares = masked_softmax(self.betas[kind].unsqueeze(-2), self._same_node & present)
        return table * shares.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)

    def with_skip(self, tables: Mixture) -> Mixture:
        """Returns the mixture with the auxiliary skip connection on every edge, as it is in this epoch."""
        if not self._auxiliary_skip:
            return tables
        return {kind: table + self._auxiliary * (self._skip & self._keep[kind]) for kind, table in tables.items()}

    def _path(self, tables: Mixture) -> Path | None:
        if not self.relaxation.one_path:
            return None
        return Path(
            {kind: table.detach().argmax(-1).where(self._keep[kind].any(-1), -1).cpu() for kind, table in tables.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "alphas": {kind: alpha.detach() for kind, alpha in self.alphas.items()},
            "betas": {kind: beta.detach() for kind, beta in self.betas.items()},
            "keep": self.keep,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for kind, alpha in self.alphas.items():
            alpha.copy_(state["alphas"][kind])
        for kind, beta in self.betas.items():
            beta.copy_(state["betas"][kind])
        self.restrict(state["keep"])
