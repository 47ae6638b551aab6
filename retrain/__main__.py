"""`python -m retrain`: trains the network of a genotype from scratch and evaluates it on the test
part."""

from dataclasses import replace

from retrain.api import measure, retrain
from retrain.config import RetrainConfig
from training.run.command import command
from training.run.config import parse_command_line
from training.run.repeat import repeat

PROG = "retrain"


def main(argv: list[str] | None = None, pictures: bool = True) -> int:
    """Runs the command line; returns the exit status. For `pictures` see `RunOptions`."""

    def run() -> None:
        config, options = parse_command_line(RetrainConfig, argv, PROG, "Train the network of a genotype from scratch.")
        options = replace(options, pictures=pictures)
        if options.seeds:
            repeat(measure, config, options)
        else:
            retrain(config, options)

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
