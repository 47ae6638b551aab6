"""Seeds for every purpose from the one seed of a run."""

import hashlib
import json

import torch


def derive_seed(*parts: int | str) -> int:
    """Returns a seed in [0, 2**63) that depends on the parts alone, in any process and Python
    version.

    Name the purpose and the epoch, as in `derive_seed(seed, "order", epoch)`: different parts give
    unrelated random streams, and a run that was stopped starts any epoch again exactly.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def new_generator(*parts: int | str) -> torch.Generator:
    """Returns a random generator on the CPU, seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
