"""The second-order architecture gradient of DARTS by double backward: the oracle of the search's
unrolled step."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Tensors = Mapping[str, Tensor]


def unrolled_gradient(
    train_loss: Callable[[Tensors, Tensors], Tensor],
    valid_loss: Callable[[Tensors, Tensors], Tensor],
    weights: Tensors,
    alphas: Tensors,
    xi: float,
    momentum: float = 0.0,
    momentum_buffers: Sequence[Tensor | None] | None = None,
    weight_decay: float = 0.0,
) -> dict[str, Tensor]:
    """Returns d L_val(w'(alpha), alpha) / d alpha, the gradient after a virtual step.

    The step is w' = w - xi (momentum * buffer + grad_w L_train(w, alpha) + weight_decay * w).

    It is exact: the graph of the virtual step is differentiated (DARTS, Liu et al. 2019, equations
    5 to 7). The losses are functions of (weights, alphas) to a scalar. `momentum_buffers` follow
    the order of the weights; None counts as zero. A weight that the training loss does not depend
    on takes no step. The arguments are left as they are.
    """
    w = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    a = {name: alpha.detach().clone().requires_grad_() for name, alpha in alphas.items()}
    buffers = [None] * len(w) if momentum_buffers is None else momentum_buffers
    gradients = torch.autograd.grad(train_loss(w, a), list(w.values()), create_graph=True, allow_unused=True)
    stepped = {}
    for (name, weight), gradient, buffer in zip(w.items(), gradients, buffers, strict=True):
        if gradient is None:
            stepped[name] = weight
            continue
        step = gradient + weight_decay * weight
        stepped[name] = weight - xi * (step if buffer is None else step + momentum * buffer)
    result = torch.autograd.grad(valid_loss(stepped, a), list(a.values()), materialize_grads=True)
    return dict(zip(a, result, strict=True))


def plain_unrolled_gradient(
    net: nn.Module,
    alphas: Tensors,
    relax: Callable[[Tensors], Tensors],
    train_batch: tuple[Tensor, Tensor],
    valid_batch: tuple[Tensor, Tensor],
    xi: float,
    momentum: float = 0.0,
    momentum_buffers: Sequence[Tensor | None] | None = None,
    weight_decay: float = 0.0,
) -> dict[str, Tensor]:
    """Returns `unrolled_gradient` for `net(images, mixture)` with cross-entropy in training mode.

    `relax` is a deterministic function of the alphas to the mixture. A batch is images [B, C, H, W]
    and labels [B]. `momentum_buffers` follow the order of `net.parameters()`. The network's
    weights, gradients, running statistics and mode are left as they are.
    """
    trained = copy.deepcopy(net).train()

    def loss(batch: tuple[Tensor, Tensor], weights: Tensors, values: Tensors) -> Tensor:
        images, labels = batch
        # Each pass has buffers of its own: batch norm writes to them, and autograd holds the ones
        # that it has read.
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        return F.cross_entropy(functional_call(trained, {**weights, **buffers}, (images, relax(values))), labels)

    return unrolled_gradient(
        lambda w, a: loss(train_batch, w, a),
        lambda w, a: loss(valid_batch, w, a),
        dict(net.named_parameters()),
        alphas,
        xi,
        momentum,
        momentum_buffers,
        weight_decay,
    )
