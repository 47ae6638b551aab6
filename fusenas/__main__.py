"""`python -m fusenas --data FOLDER`: searches a cell for images, trains its network and exports
it."""

from base.texts import decimals
from fusenas.fit import Fitted, fit_configured
from fusenas.settings import FitConfig
from training.run.command import command
from training.run.config import parse_command_line
from training.tasks.task import TASKS

PROG = "fusenas"


def _told(fitted: Fitted, score: str | None) -> str:
    """Returns the numbers that matter most, in words: first the score that was asked for."""
    task, values = TASKS[fitted.result.trained.task], {"loss": fitted.test.loss, **fitted.test.values}
    asked = [] if score is None else [score]
    names = dict.fromkeys([*asked, "accuracy", "macro_recall", "r2", "mse", "mae"])
    return ", ".join(f"{task.words(name)} {decimals(values[name])}" for name in names if name in values)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def run() -> None:
        config, options = parse_command_line(
            FitConfig,
            argv,
            PROG,
            "From a folder of images, or an .npz file, to a searched, trained and exported network.",
            repeats=False,
        )
        fitted = fit_configured(config, options)
        print(f"{PROG}: test {_told(fitted, config.score)}")
        print(f"{PROG}: report {fitted.report}; exported: {', '.join(map(str, fitted.files)) or 'nothing'}")

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
