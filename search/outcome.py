"""The quantities that finished searches are compared by."""

from pathlib import Path

from search.history import SamplingRound, read_search_history

EVALUATED = ("supernet_", "derived_")
"""The beginning of the names of the readings of a supernet and of the derived cell with its
weights, on the search's validation examples."""


def outcome(run: Path) -> dict[str, float]:
    """Returns the last value of each such quantity that the search in the directory `run` has
    measured; of a sampling search its best score ("best_macro_f1", if that was asked for), and the
    test accuracy of that architecture in a benchmark table."""
    found: dict[str, float] = {}
    for entry in read_search_history(run):
        for prefix in EVALUATED:
            found |= {name: value for name, value in entry.readings.items() if name.startswith(prefix)}
        if isinstance(entry, SamplingRound):
            values = {f"best_{entry.score or 'score'}": entry.best_score, "test_accuracy": entry.test_accuracy}
            found |= {name: value for name, value in values.items() if value is not None}
    return found
