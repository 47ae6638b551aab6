"""Predictors of the scores of architectures from their encoding, with their own uncertainty."""

import math
import warnings
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from threadpoolctl import threadpool_limits
from torch import Tensor

from base.seeds import new_generator
from training.optim import cosine, set_lr
from training.run.structure import Part, integer, numeric, optional, row


class Predictor(Protocol):
    """A model that learns scores from features and predicts others, on the scale of
    `normal_scores`."""

    def fit(self, features: np.ndarray, scores: np.ndarray) -> None:
        """Learns from features, float32 [architectures, features], and scores [architectures], more
        is better."""

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation [architectures] of the scores to expect."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that the next fit takes over from those before."""

    def parts(self) -> dict[str, Part]:
        """Returns the structure of each part of `state_dict`, by name."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back."""


def normal_scores(scores: np.ndarray) -> np.ndarray:
    """Maps scores [n] to quantiles (rank - 1/2) / n of the standard normal distribution; equals
    share a rank.

    So a predictor is the same for accuracies, with their long tail of architectures that hardly
    learn, and for the scores of proxies, which have any scale.
    """
    return norm.ppf((rankdata(scores) - 0.5) / len(scores))


class Ensemble:
    """Small networks that are trained alike from different initial weights, each without a part of
    the data.

    After BANANAS (White et al. 2021): the mean of the networks is the prediction, their spread its
    uncertainty. The spread of networks that have seen all data is smaller than their errors, so
    each leaves out another fifth, and the mean squared error there is added to the variance. With
    the one-hot encoding, 1 of 12 searches of the NAS-Bench-201 table ended in a local optimum with
    the spread alone and 0 with this; with the path encoding 0 either way.

    `fit` draws from a generator of its own, seeded by `seed` and the number of scores.
    """

    members = 5
    width = 32
    """Neurons in each of the two hidden layers; the paper has ten layers of 20."""
    steps = 60
    """Number of steps of Adam, each on all data."""
    lr = 0.01
    """Learning rate at the first step; it falls to 0 by half a cosine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, features: np.ndarray, scores: np.ndarray) -> None:
        generator = new_generator(self._seed, "ensemble", len(scores))
        self._columns = features.any(axis=0)
        """Columns that some data have; the weights of others would stay as initialised."""
        inputs = self._inputs(features)
        targets = torch.from_numpy(normal_scores(scores)).float()
        folds = torch.randperm(len(scores), generator=generator) % self.members
        unseen = folds == torch.arange(self.members).unsqueeze(1)
        if len(scores) < self.members:
            unseen.zero_()  # a network without data would predict nothing
        self._train(inputs, targets, (~unseen).float(), generator)
        errors = (self._forward(inputs) - targets).square()[unseen]
        self._noise = errors.mean().item() if len(errors) else 1.0  # the variance of the targets

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predictions = self._forward(self._inputs(features))
        return predictions.mean(0).numpy(), (predictions.var(0) + self._noise).sqrt().numpy()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def parts(self) -> dict[str, Part]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing back: every fit begins anew."""

    def _inputs(self, features: np.ndarray) -> Tensor:
        """Returns the inputs of each member, [members, architectures, columns]."""
        return torch.from_numpy(features[:, self._columns]).expand(self.members, -1, -1)

    def _train(self, inputs: Tensor, targets: Tensor, seen: Tensor, generator: torch.Generator) -> None:
        # Only a few inputs of the first layer differ from 0.
        active = max(1.0, inputs.sum().item() / (self.members * len(targets)))
        fans = ((inputs.shape[-1], active), (self.width, self.width), (self.width, self.width))
        self._weights = []
        for (rows, fan_in), columns in zip(fans, (self.width, self.width, 1), strict=True):
            # He et al. 2015 before a ReLU.
            bound = math.sqrt((6 if columns > 1 else 1) / fan_in)
            self._weights.append(bound * (2 * torch.rand(self.members, rows, columns, generator=generator) - 1))
            self._weights.append(torch.zeros(self.members, 1, columns))
        for weight in self._weights:
            weight.requires_grad_()
        optimizer = torch.optim.Adam(self._weights, lr=self.lr, fused=True)
        for step in range(self.steps):
            set_lr(optimizer, cosine(step, self.steps, self.lr, 0.0))
            loss = (seen * (self._forward(inputs) - targets).square()).sum(1) / seen.sum(1)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        self._weights = [weight.detach() for weight in self._weights]

    def _forward(self, inputs: Tensor) -> Tensor:
        """Returns the predictions of each member, [members, architectures]."""
        *hidden, weight, bias = self._weights
        for number in range(0, len(hidden), 2):
            inputs = torch.baddbmm(hidden[number + 1], inputs, hidden[number]).relu()
        return torch.baddbmm(bias, inputs, weight).squeeze(-1)


class GaussianProcess:
    """A Gaussian process with noise and a squared exponential kernel.

    On features of 0 and 1 the kernel is one of the Hamming distance.

    Amplitude, length and noise are those of the largest marginal likelihood, sought whenever the
    data has grown by half.
    """

    growth = 1.5

    def __init__(self) -> None:
        self._theta: list[float] | None = None
        """Logarithms of amplitude, length and noise; None before the first fit."""
        self._count = 0
        """Number of scores when they were found."""

    def fit(self, features: np.ndarray, scores: np.ndarray) -> None:
        self._columns = features.any(axis=0)
        features, targets = self._compact(features), normal_scores(scores)
        with _one_thread():
            if len(scores) >= self.growth * self._count:
                with warnings.catch_warnings():
                    # scikit-learn warns if the likelihood still rises at the bound of a parameter,
                    # which is usual here.
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    found = GaussianProcessRegressor(self._kernel()).fit(features, targets)
                self._theta, self._count = found.kernel_.theta.tolist(), len(scores)
            self._process = GaussianProcessRegressor(self._kernel(), optimizer=None).fit(features, targets)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with _one_thread():
            mean, deviation = self._process.predict(self._compact(features), return_std=True)
        return mean, deviation  # variance of a new score, noise included

    def state_dict(self) -> dict[str, Any]:
        return {"theta": self._theta, "count": self._count}

    def parts(self) -> dict[str, Part]:
        return {"theta": optional(row(numeric, numeric, numeric, kind=list)), "count": integer()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._theta, self._count = state["theta"], state["count"]

    def _compact(self, features: np.ndarray) -> np.ndarray:
        """Returns features with the same distances, with one column for all that no data has (most,
        in a path encoding)."""
        others = features[:, ~self._columns].sum(axis=1, keepdims=True, dtype=np.float64)
        return np.concatenate([features[:, self._columns], np.sqrt(others)], axis=1)

    def _kernel(self) -> Kernel:
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(2.0, (0.3, 30.0)) + WhiteKernel(0.1, (1e-4, 1.0))
        return kernel if self._theta is None else kernel.clone_with_theta(self._theta)


def _one_thread() -> AbstractContextManager[Any]:
    """Limits BLAS to one thread: on matrices of some hundred rows several take four times as
    long."""
    return threadpool_limits(1, "blas")
