"""`python -m search.darts`: DARTS (Liu, Simonyan & Yang 2019), first and second order.

A softmax over the candidates of every edge relaxes the choice; alphas descend the validation loss and weights the training
loss, in turns; the space's rule derives the cell from the strongest candidates.
"""

from search.config import SearchConfig
from search.loop import search
from search.relaxations import softmax
from training.command import command
from training.config import parse_command_line

PROG = "search.darts"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def run() -> None:
        config, options = parse_command_line(SearchConfig, argv, PROG, "Search a cell with DARTS (Liu et al. 2019).")
        search(config, options, softmax, "darts")

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
