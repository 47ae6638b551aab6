"""Where the kernels are tested: in Triton's interpreter, or on a GPU where there is one."""

import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "kernels",
    # Triton's interpreter is slow, so that only `make test-all` takes 12.
    max_examples=int(os.environ.get("KERNEL_EXAMPLES", "4")),
    phases=[Phase.generate],  # shrinking a failure takes minutes in Triton's interpreter
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Place(NamedTuple):
    """A device, the type of the maps on it, and the relative error that this type allows."""

    device: str
    dtype: torch.dtype
    tolerance: float


ON_CPU = [Place("cpu", torch.float32, 1e-5)]
ON_GPU = [Place("cuda", torch.float32, 1e-5), Place("cuda", torch.bfloat16, 2e-2)]


@pytest.fixture(params=ON_GPU if torch.cuda.is_available() else ON_CPU, ids=lambda place: f"{place.device}-{place.dtype}")
def place(request: pytest.FixtureRequest) -> Place:
    """Each device and type that kernels run in here; the interpreter computes bfloat16 wrongly."""
    return request.param
