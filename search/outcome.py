"""What a finished search can be compared by."""

from pathlib import Path

from search.history import read_search_history

QUANTITIES = ("supernet_accuracy", "derived_accuracy", "best_score", "test_accuracy")
"""In the entries of a history: accuracy of the supernet and, with its weights, of the derived cell on the search's validation
images; of a sampling search the best score, and the best architecture's test accuracy in a benchmark table."""


def outcome(run: Path) -> dict[str, float]:
    """Returns the last value of each of the `QUANTITIES` that the search in the directory `run` has measured."""
    found: dict[str, float] = {}
    for entry in read_search_history(run):
        values = {name: getattr(entry, name, None) for name in QUANTITIES}
        found |= {name: value for name, value in values.items() if value is not None}
    return found
