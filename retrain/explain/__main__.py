"""`python -m retrain.explain RUN`: what a retrained network looks at, and how far that can be
trusted.

RUN is the directory of a finished retraining. Integrated gradients, Grad-CAM, occlusion, LIME and
KernelSHAP mark, for right and wrong predictions of each class, what speaks for the predicted class;
deletion, insertion, completeness, the agreement of methods and a network of random weights say what
the marks are worth; a decision tree stands in for the last layers. Writes explanation.html and
explanation.json into RUN.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from base.checks import FieldError, InputError, check_seed, check_whole
from base.texts import excerpt, one_line
from retrain.config import RetrainConfig
from retrain.evaluation.networks import Run
from retrain.explain.attributions import METHODS, Settings
from retrain.explain.examples import from_files, from_test_part
from retrain.explain.explaining import Plan, explain, known_methods, look_through
from retrain.explain.page import explanation_page
from retrain.finished import RetrainRun
from training.hardware import choose_device
from training.images.arguments import add_data_arguments, data_fields
from training.run.arguments import TRUTH, Parser, whole_number
from training.run.command import command
from training.run.ownership.files import check_own, write_file

PROG = "retrain.explain"
CLASSIFICATION = "classification"
PAGE_FILE, NUMBERS_FILE = "explanation.html", "explanation.json"


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"python -m {PROG} RUN [--OPTION VALUE ...]",
        description="Explain what a retrained network looks at, and check how far the explanation can be trusted.",
        allow_abbrev=False,
    )

    def number(name: str, default: int, text: str) -> None:
        parser.add_argument(f"--{name}", type=whole_number, default=default, metavar="N", help=f"{text} (default: {default}).")

    usual = Settings()
    parser.add_argument("run", type=Path, metavar="RUN", help="Directory of a finished retraining.")
    images = "Images to explain: a folder, whose folders may be classes, or files (default: the test part)."
    parser.add_argument("--images", nargs="+", type=Path, metavar="PATH", help=images)
    given = f"Methods, of {', '.join(METHODS)} (default: all)."
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help=given)
    number("cell", usual.cell, "Cell that Grad-CAM looks at, from 0; negative numbers count from the last")
    number("per_class", Plan.each, "Images of each class that are recognised, and as many that are not")
    number("most", Plan.most, "Images that are explained, at most")
    number("look_through", 2000, "Images among which they are chosen, and that the tree is fitted to, at most")
    number("patches", usual.patches, "Patches along a side, for occlusion, LIME and KernelSHAP")
    number("samples", usual.samples, "Samples of each image for LIME and KernelSHAP")
    number("steps", usual.steps, "Steps of integrated gradients")
    complete = "Cut the path of integrated gradients where the network bends, so that they add up (default: false)."
    parser.add_argument("--complete", default=False, help=complete, **TRUTH)
    number("checked", Plan.checked, "Images that are explained again with random weights, at most")
    number("depth", Plan.depth, "Questions in a row that the tree asks, at most")
    number("seed", usual.seed, "Seed of all random choices")
    parser.add_argument("--output", type=Path, metavar="DIR", help="Write the files into that directory instead of RUN.")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one; default), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: one for each core).")
    add_data_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 1 if a file of --images cannot be read."""
    return command(PROG, lambda: _main(sys.argv[1:] if argv is None else argv), less="a smaller --look_through or --most")


def _main(argv: list[str]) -> int:
    options = vars(_parser().parse_args(argv))
    plan = _plan(options)
    for name in ("look_through", "threads"):
        check_whole(name, options[name])
    device = choose_device(options["device"], options["threads"])
    run = _read_run(options)
    _check_captum()
    plan.check(run)
    output: Path = options["output"] or options["run"]
    _check_output(output, options["output"] is not None)
    most, seed = options["look_through"], plan.settings.seed
    paths = options["images"]
    examples = from_test_part(run, most, seed, device) if paths is None else from_files(run, paths, most, seed)
    print(f"{len(examples):,} images from {examples.source}")
    with _bar(len(examples), "looking through") as bar:
        seen = look_through(run, examples, plan, device, _by(bar))
    passes = plan.passes(run, len(seen.chosen))
    cost = ", ".join(f"{name} {count:,}" for name, count in passes.items())
    bound = " at most" if plan.settings.complete else ""
    print(f"explaining {len(seen.chosen)} of them takes{bound} {sum(passes.values()):,} images through the network: {cost}")
    with _bar(sum(passes.values()), "explaining") as bar:
        found = explain(run, examples, seen, plan, _by(bar))
    print("\n".join([*found.sentences(), found.said_of_tree()]))
    page = explanation_page(run, found, [PROG, *argv], device)
    output.mkdir(parents=True, exist_ok=True)
    numbers = write_file(output, NUMBERS_FILE, json.dumps(found.to_dict(), indent=1) + "\n")
    print(f"written: {write_file(output, PAGE_FILE, page.html())}, {numbers}")
    for problem in examples.unreadable:
        print(f"{PROG}: {problem}", file=sys.stderr)
    return 1 if examples.unreadable else 0


def _check_captum() -> None:
    """Raises InputError where captum is absent, or does not work beside the other packages."""
    try:
        importlib.import_module("captum.attr")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "captum"
        why = "" if absent else f" ({one_line(error)})"
        raise InputError(f"{PROG} needs captum: pip install 'fusenas[explain]'{why}") from error


def _read_run(options: dict[str, Any]) -> Run:
    """Returns the run, with its settings where its own images are explained.

    Raises InputError where it cannot be read or has outputs that are no classes.
    """
    path, data = options["run"], data_fields(options)
    trained = RetrainRun.open(path).trained
    if trained.task != CLASSIFICATION:
        raise InputError(f"{path}: its task is {excerpt(trained.task)}, and this command explains classes alone")
    if options["images"] is None:
        return Run.read(path, data)
    if data:
        raise FieldError("images", "files are read as those of the training were; leave out the options --data...")
    return Run(path, trained, RetrainConfig())


def _plan(options: dict[str, Any]) -> Plan:
    """Returns the plan that the options ask for. Raises FieldError for numbers that make no
    sense."""
    for name in ("per_class", "most", "samples", "steps", "checked", "depth"):
        check_whole(name, options[name])
    check_seed("seed", options["seed"])
    if options["depth"] > 20:
        raise FieldError("depth", f"must be at most 20 questions, not {options['depth']}")
    settings = Settings(**{name: options[name] for name in ("cell", "patches", "steps", "complete", "samples", "seed")})
    methods = known_methods(options["methods"])
    return Plan(methods, settings, options["per_class"], options["most"], options["checked"], options["depth"])


def _check_output(directory: Path, is_other: bool) -> None:
    """Raises InputError, before any work is done, if the files cannot be written, or others of
    their names are there."""
    if is_other and not directory.exists():
        # It is made when there is something to write.
        above = next(folder for folder in directory.absolute().parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise InputError(f"--output: {directory}: cannot be made in {above}; name another directory")
        return
    if not directory.is_dir():
        raise InputError(f"--output: {directory}: is no directory; name another one")
    if not os.access(directory, os.W_OK | os.X_OK):
        instead = "" if is_other else "; name another directory with --output"
        raise InputError(f"{directory}: no permission to write there{instead}")
    check_own(directory, PAGE_FILE, NUMBERS_FILE)
    for name in (PAGE_FILE, NUMBERS_FILE):
        if (directory / name).is_dir():
            raise InputError(f"{directory / name}: is a directory; move it away, then try again")
        if is_other and (directory / name).exists():
            raise InputError(f"{directory / name}: is there already; move it away, or name another directory with --output")


def _bar(total: int, description: str) -> "tqdm[Any]":
    return tqdm(total=total, desc=description, unit=" images", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


def _by(bar: "tqdm[Any]") -> Callable[[int], None]:
    """Returns a function that moves the bar on by a number of images."""

    def advance(count: int) -> None:
        bar.update(count)

    return advance


if __name__ == "__main__":
    raise SystemExit(main())
