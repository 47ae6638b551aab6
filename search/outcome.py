"""What a finished search can be compared by."""

import json
from pathlib import Path
from typing import Any

from training.run.history import HISTORY_FILE

QUANTITIES = ("supernet_accuracy", "derived_accuracy", "best_score", "test_accuracy")
"""In the entries of a history: accuracy of the supernet and, with its weights, of the derived cell on the search's validation
images; of a sampling search the best score, and the best architecture's test accuracy in a benchmark table."""


def outcome(run: Path) -> dict[str, float]:
    """The last value of each of the `QUANTITIES` that the search in the directory `run` has measured."""
    found: dict[str, float] = {}
    path = run / HISTORY_FILE
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        found |= {name: entry[name] for name in QUANTITIES if entry.get(name) is not None}
    return found
