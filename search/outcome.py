"""The quantities that finished searches are compared by."""

from pathlib import Path

from search.history import read_search_history

EVALUATED = ("supernet_", "derived_")
"""The beginning of the names of the readings of a supernet and of the derived cell with its
weights, on the search's validation examples."""
QUANTITIES = ("best_score", "test_accuracy")
"""Fields of a sampling search's rounds: the best score, and the best architecture's test accuracy
in a benchmark table."""


def outcome(run: Path) -> dict[str, float]:
    """Returns the last value of each such quantity that the search in the directory `run` has
    measured."""
    found: dict[str, float] = {}
    for entry in read_search_history(run):
        for prefix in EVALUATED:
            found |= {name: value for name, value in entry.readings.items() if name.startswith(prefix)}
        values = {name: getattr(entry, name, None) for name in QUANTITIES}
        found |= {name: value for name, value in values.items() if value is not None}
    return found
