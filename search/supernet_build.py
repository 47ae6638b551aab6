"""The supernet of a search, and how and on what it may be evaluated, for both families of methods."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from base.seeds import derive_seed
from search.config import SupernetSearchConfig
from supernet import Supernet


def build_supernet(
    config: SupernetSearchConfig, outputs: int, image_channels: int, candidates: Mapping[str, Tensor], **others: Any
) -> Supernet:
    """Makes the supernet that `config` describes, on the CPU, with new weights drawn from its seed.

    It maps images of so many channels to `outputs` numbers and has the `candidates` {kind: bool
    [edges, candidates]}; `others` are further arguments of `Supernet`. Seeds torch's generators.
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    size = config.channels, config.cells, outputs, image_channels
    shared = {name: getattr(config, name) for name in ("batch_statistics", "kernels", "stem", "recompute")}
    return Supernet(config.search_space, *size, candidates=candidates, **shared | others)


def has_independent_examples(config: SupernetSearchConfig) -> bool:
    """Returns whether the supernet's result for an example depends on no other example of its batch.

    So it is with running statistics of batch norm; as many examples are then evaluated together as
    fill a device.
    """
    chosen = config.batch_statistics
    return not (config.search_space.batch_statistics if chosen is None else chosen)
