"""Floor 4: search methods. `python -m search.darts --help` lists what one takes; `search.run` is the same from Python."""

from search.api import run

__all__ = ["run"]
