"""All that the score of an architecture depends on, so that scores of two sorts are never mixed."""

import hashlib
import json
from dataclasses import fields
from typing import Any

from search.costs.tabular import Table
from search.sampling.config import SamplingConfig
from training.run.config import config_to_dict
from training.tasks.task import Task

_NOT_OF_SCORES = frozenset(
    (
        *("evaluations", "round", "best", "latency", "prefilter", "device", "threads", "log_every", "stop", "kernels"),
        *("recompute", "weights_from", "tabular", "data", "evaluate", "space", "exclude", "score"),
    )
)
"""Fields that change which architectures are looked at, or how, but no score; and those whose part
in it has an entry of its own."""
_NOT_OF_IMAGES = frozenset(("name", "root", "download", "skip_unreadable", "loading", "workers"))
_OF_PROXIES = ("channels", "cells", "stem", "batch_size", "seed", "task")


def score_identity(config: SamplingConfig, task: Task | None, table: Table | None) -> dict[str, str]:
    """Returns what the scores of a search depend on, in short texts by subject: where two searches
    have the same, an architecture has the same score.

    A table's scores depend on its figures; those of a proxy on one batch of the images, the size of
    the network and the seed; those of a supernet on the score that is asked for, the images and all
    settings that its weights are trained with, or on the run that has them.
    """
    identity = {"evaluate": config.evaluate}
    if config.evaluate == "table":
        assert table is not None
        return identity | {"table": table.fingerprint}
    assert task is not None
    settings = config_to_dict(config)
    images = {name: value for name, value in settings["data"].items() if name not in _NOT_OF_IMAGES}
    identity["images"] = f"{task.train.fingerprint} {_short(images)}"
    if config.evaluate == "supernet":
        identity["score"] = task.scored_by.name
    else:
        return identity | {"settings": _short({name: settings[name] for name in _OF_PROXIES})}
    # The fields of a sampler of its own change no score unless it is asked while weights are trained.
    is_asked = config.paths == "sampler" or config.guide > 0
    known = settings if is_asked else [field.name for field in fields(SamplingConfig)]
    identity["settings"] = _short({name: settings[name] for name in known if name not in _NOT_OF_SCORES})
    return identity


def _short(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()
