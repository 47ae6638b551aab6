"""A decision tree that says what the network says, from the features before its last layer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from supernet.discrete import DiscreteCell, DiscreteNetwork

FOLDS = 5
_FEWEST = 4 * FOLDS


@dataclass(frozen=True)
class Surrogate:
    """A decision tree in the place of a network."""

    images: int
    fidelity: float
    """Share of the images, none of which the tree was fitted on, for which it says what the network
    says: mean over `FOLDS` folds."""
    base_rate: float
    """The share for which the network says its most frequent class."""
    leaves: int
    features: int
    """Number of features that there are."""
    used: tuple[str, ...]
    """Names of those that the tree asks for, the one that decides most first."""
    rules: str
    """The tree as text."""

    @property
    def is_better(self) -> bool:
        """Says whether the tree says more than the most frequent class, beyond twice the standard
        error of its fidelity."""
        error = (self.fidelity * (1 - self.fidelity) / self.images) ** 0.5
        return self.fidelity - self.base_rate > 2 * error


def fit_surrogate(
    features: Tensor, predicted: Tensor, names: Sequence[str], class_names: Sequence[str], depth: int, seed: int
) -> Surrogate | None:
    """Fits a tree of at most `depth` questions in a row to features [N, F] and what the network says,
    int64 [N].

    The tree that is shown is fitted on all images; its fidelity is that of trees which have not
    seen the images that they are asked about. None with too few images, or where the network says
    one class alone.
    """
    from sklearn.model_selection import KFold
    from sklearn.tree import DecisionTreeClassifier

    if len(features) < _FEWEST or len(predicted.unique()) < 2:
        return None
    values, answers = features.double().numpy(), predicted.numpy()

    def new_tree() -> Any:
        return DecisionTreeClassifier(max_depth=depth, min_samples_leaf=max(2, len(features) // 200), random_state=seed % 2**32)

    same = 0
    for fitted, left in KFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(values):
        same += int((new_tree().fit(values[fitted], answers[fitted]).predict(values[left]) == answers[left]).sum())
    tree = new_tree().fit(values, answers)
    weights = torch.from_numpy(tree.feature_importances_)
    used = [names[number] for number in weights.argsort(descending=True, stable=True).tolist() if weights[number] > 0]
    text = "\n".join(_rules(tree, names, [class_names[number] for number in tree.classes_]))
    most = float(predicted.bincount().max()) / len(predicted)
    return Surrogate(len(features), same / len(features), most, int(tree.get_n_leaves()), features.shape[1], tuple(used), text)


def _rules(tree: Any, names: Sequence[str], classes: Sequence[str]) -> Iterable[str]:
    """Yields the lines of the tree, each indented below the question before it."""
    nodes = tree.tree_
    waiting = [(0, 0, "")]
    while waiting:
        node, depth, before = waiting.pop()
        below, above = nodes.children_left[node], nodes.children_right[node]
        start = f"{'  ' * depth}{before}"
        if below == above:
            shares = nodes.value[node][0] / nodes.value[node][0].sum()
            said = classes[shares.argmax()]
            yield f"{start}{said} ({shares.max():.0%} of {nodes.n_node_samples[node]:,} images)"
            continue
        if start:
            yield start.rstrip()
        name, limit = names[nodes.feature[node]], nodes.threshold[node]
        inner = depth + bool(start)
        waiting.append((above, inner, f"if {name} is above {limit:.3g}: "))
        waiting.append((below, inner, f"if {name} is at most {limit:.3g}: "))


def last_layer(network: DiscreteNetwork) -> nn.Linear | None:
    """Returns the last linear layer of the head, whose inputs are the penultimate features; None:
    the head has none."""
    linear = [part for part in network.head.modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear else None


def feature_names(network: DiscreteNetwork, count: int) -> list[str]:
    """Returns a name for each penultimate feature: node and channel of the last cell, if the
    features are its channels, else numbers."""
    last = network.layers[-1]
    if isinstance(last, DiscreteCell) and len(last.concat) * last.position.channels == count:
        channels = last.position.channels
        return [f"node {last.concat[number // channels]} channel {number % channels}" for number in range(count)]
    return [f"feature {number}" for number in range(count)]


def outputs_and_features(
    network: DiscreteNetwork, batches: Iterable[Tensor], advance: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Returns the outputs [N, classes] for all images and the penultimate features [N, F], float32
    on the CPU; None: the head has no linear layer."""
    layer, outputs, features = last_layer(network), [], []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0].float().flatten(1).cpu())

    handle = None if layer is None else layer.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for images in batches:
                outputs.append(network(images).float().cpu())
                if advance is not None:
                    advance(len(images))
    finally:
        if handle is not None:
            handle.remove()
    return torch.cat(outputs), torch.cat(features) if features else None
