"""`python -m fusenas --data FOLDER`: searches a cell for images, trains its network and exports
it."""

from fusenas.fit import fit_configured
from fusenas.settings import FitConfig
from training.run.command import command
from training.run.config import parse_command_line

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
        print(f"{PROG}: test accuracy {fitted.test.accuracy:.4f}, macro recall {fitted.test.macro_recall:.4f}")
        print(f"{PROG}: report {fitted.report}; exported: {', '.join(map(str, fitted.files)) or 'nothing'}")

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
