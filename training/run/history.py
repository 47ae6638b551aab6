"""What a run keeps of each epoch, in a file that is whole at any moment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.files import write_atomically

HISTORY_FILE = "history.jsonl"


def write_history(directory: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes history.jsonl in the directory of a run: a line of JSON for each entry, of numbers, text and containers of them.

    Checkpoints hold the same entries, so that a resumed run goes on from them. No time of day or duration belongs there: a run
    that was killed and resumed ends with the same bytes as one that was not. Raises OSError where the file cannot be written.
    """
    write_atomically(directory / HISTORY_FILE, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in history))
