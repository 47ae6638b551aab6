"""The entries of a retraining's history, one for each epoch."""

from dataclasses import dataclass

from training.run.history import HistoryEntry


@dataclass(frozen=True, kw_only=True)
class RetrainEpoch(HistoryEntry):
    """An epoch of a retraining; its readings are those of the meters, "train/loss" and, of images
    held out, "valid/loss"."""

    lr: float
    """Learning rate of the epoch."""
