"""The architecture steps of bilevel optimisation (DARTS, Liu et al. 2019, section 2.3).

min over alpha of L_valid(w*(alpha), alpha), where w*(alpha) minimises L_train(w, alpha). Both
functions here return the gradient of the validation loss with respect to the architecture
parameters; they know nothing of networks, only of losses as functions of named weights and named
statistics of batch norm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from training.run.profile import span

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]


@dataclass(frozen=True)
class VirtualStep:
    """A step of SGD on the weights that is computed but not taken.

    It leads to w - rate * (gradient + decay * w + momentum * buffer).

    `rate` is a number or a scalar tensor on the device of the weights. `buffers` are the
    optimiser's momentum buffers by name of the weight; a weight may have none yet.
    """

    rate: float | Tensor
    momentum: float = 0.0
    weight_decay: float = 0.0
    buffers: Mapping[str, Tensor] | None = None

    def __call__(self, weights: Weights, gradients: Sequence[Tensor]) -> Weights:
        present = list(weights.values())
        direction = torch._foreach_add(list(gradients), present, alpha=self.weight_decay)
        if self.buffers:
            buffers = [self.buffers.get(name) for name in weights]
            known = [torch.zeros_like(w) if buffer is None else buffer for w, buffer in zip(present, buffers, strict=True)]
            direction = torch._foreach_add(direction, known, alpha=self.momentum)
        stepped = torch._foreach_sub(present, torch._foreach_mul(direction, self.rate))
        return dict(zip(weights, stepped, strict=True))

    @staticmethod
    def of(optimizer: Optimizer, weights: Mapping[str, Tensor]) -> "VirtualStep":
        """Returns the step with the rate, decay and momentum of `optimizer`; without momentum
        buffers (Adam ...) that term is 0.

        As published it leaves out clipping and Nesterov's form.
        """
        group = optimizer.param_groups[0]
        states = {name: optimizer.state.get(weight, {}).get("momentum_buffer") for name, weight in weights.items()}
        buffers = {name: buffer for name, buffer in states.items() if buffer is not None}
        return VirtualStep(group["lr"], group.get("momentum", 0.0), group["weight_decay"], buffers)


def first_order(valid_loss: Tensor, alphas: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradient at the present weights, as if they were optimal (DARTS, section 2.3, xi
    = 0)."""
    return _gradient(valid_loss, alphas)


def second_order(
    train_loss: Loss,
    valid_loss: Loss,
    weights: Weights,
    alphas: Sequence[Tensor],
    step: VirtualStep,
    hessian_vector: Literal["finite", "exact"] = "finite",
    epsilon: float = 0.01,
    precise_train_loss: Loss | None = None,
) -> list[Tensor]:
    """Returns the gradient through one virtual step of the weights (DARTS, equations 7 and 8).

    With w' = step(w) it is grad_alpha L_valid(w', alpha) - rate * H v, where v = grad_w' L_valid
    and H = d2 L_train / d alpha d w at w. `finite` takes H v from the difference of grad_alpha
    L_train at w + h v and w - h v, h = `epsilon` / ||v||; `exact` from a double backward.
    `precise_train_loss` is L_train for that difference, if `train_loss` rounds too much for it: h v
    moves a weight by far less than bfloat16 resolves.
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    if hessian_vector == "exact":
        # Of the ways to compute attention this one alone has a second derivative
        # (findings/sdpa_double_backward.sh).
        with sdpa_kernel(SDPBackend.MATH):
            gradients = _gradient(train_loss(weights), list(weights.values()), create_graph=True)
        return _gradient(valid_loss(step(weights, gradients)), alphas)

    gradients = _gradient(train_loss(weights), list(weights.values()))
    ahead = {name: weight.detach().requires_grad_() for name, weight in step(weights, gradients).items()}
    count = len(alphas)
    both = _gradient(valid_loss(ahead), [*alphas, *ahead.values()])
    direct, vector = both[:count], both[count:]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
    h = epsilon / length
    sides = []
    for sign in (1, -1):
        moved = torch._foreach_add([weight.detach() for weight in weights.values()], torch._foreach_mul(vector, sign * h))
        shifted = dict(zip(weights, moved, strict=True))
        sides.append(_gradient((precise_train_loss or train_loss)(shifted), alphas))
    # If v is 0 the product is 0, while h is infinite.
    scale = torch.where(length > 0, step.rate / (2 * h), 0.0)
    return [
        first - torch.where(length > 0, scale * (plus - minus), 0.0) for first, plus, minus in zip(direct, *sides, strict=True)
    ]


def _gradient(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Returns the gradients of `loss`; zeros for inputs that it does not depend on."""
    if not loss.requires_grad:
        # The loss may depend on none of the inputs: every operation into the last node may be none.
        return [torch.zeros_like(tensor) for tensor in inputs]
    with span("backward"):
        found = torch.autograd.grad(loss, list(inputs), create_graph=create_graph, allow_unused=True, materialize_grads=True)
    return list(found)
