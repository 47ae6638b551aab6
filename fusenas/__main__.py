"""`python -m fusenas --data FOLDER`: searches a cell for images, trains its network and exports
it."""

from fusenas.fit import fit_configured
from fusenas.settings import FitConfig
from training.run.command import command
from training.run.config import parse_command_line
from training.tasks.classification import Classification

PROG = "fusenas"


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
        # The score that was asked for comes first.
        names = dict.fromkeys([config.score or "accuracy", "accuracy", "macro_recall"])
        said = ", ".join(f"{Classification.words(name)} {getattr(fitted.test, name):.4f}" for name in names)
        print(f"{PROG}: test {said}")
        print(f"{PROG}: report {fitted.report}; exported: {', '.join(map(str, fitted.files)) or 'nothing'}")

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
