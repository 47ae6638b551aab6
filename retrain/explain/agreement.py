"""Rank correlations between maps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from retrain.explain.attributions import by_patch


def rank_correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of each row of [B, P] with the same row of the other,
    [B]; equal values share the mean of their ranks, and a row of equal values alone has NaN."""
    from scipy.stats import rankdata

    first, second = (torch.from_numpy(rankdata(values.numpy(), axis=1)) for values in (ours, theirs))
    first, second = (ranks - ranks.mean(1, keepdim=True) for ranks in (first, second))
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def mean(values: Tensor) -> float | None:
    """Returns the mean of those of the values that are no NaN; None where all are."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else None


def agreement(maps: Mapping[str, Tensor], patches: int) -> dict[str, dict[str, float | None]]:
    """Returns, for each two methods, the mean over images of the rank correlation of their maps
    [B, H, W].

    The maps are compared by their sums over patches: LIME and KernelSHAP know no finer parts, and
    single pixels of a gradient are noise. An image whose map is constant is left out; None: all
    are.
    """
    coarse = {name: by_patch(found, patches) for name, found in maps.items()}
    return {
        name: {other: mean(rank_correlation(coarse[name], coarse[other])) for other in coarse if other != name}
        for name in coarse
    }


def is_flat(maps: Tensor) -> Tensor:
    """Says which of the maps [B, H, W] have one value alone, bool [B]."""
    return torch.isclose(maps.flatten(1).amax(1), maps.flatten(1).amin(1), rtol=1e-9, atol=0.0)
