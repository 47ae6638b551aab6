"""`python -m fusenas --data FOLDER`: searches a cell for images, trains its network and exports
it."""

from base.texts import decimals
from fusenas.fit import fit_configured
from fusenas.settings import FitConfig
from retrain.evaluation.kinds import KINDS
from training.run.command import command
from training.run.config import parse_command_line

PROG = "fusenas"
_TOLD = {"accuracy": "accuracy", "macro_recall": "macro recall", **KINDS["regression"].columns}


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
        told = [f"{_TOLD[name]} {decimals(value)}" for name, value in fitted.test.values.items() if name in _TOLD]
        print(f"{PROG}: test {', '.join(told)}")
        print(f"{PROG}: report {fitted.report}; exported: {', '.join(map(str, fitted.files)) or 'nothing'}")

    return command(PROG, run)


if __name__ == "__main__":
    raise SystemExit(main())
