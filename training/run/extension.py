"""A run that goes on for longer than it was begun for."""

from dataclasses import replace
from typing import TypeVar

from base.checks import FieldError, InputError
from training.run.checkpoint import Checkpoints
from training.run.config import CONFIG_FILE, RunOptions, config_from_file
from training.run.directory import kind_of_run
from training.run.ownership.claim import restore
from training.tasks.config import TrainingConfig

C = TypeVar("C", bound=TrainingConfig)


def extended(config: C, options: RunOptions) -> C:
    """Returns the configuration that a run goes on with: `config` and, if it has more epochs than
    the run was begun for, the record of that in its field `extended`.

    A run from the beginning with that configuration comes to the same result.

    Raises:
        InputError: another process is at work in the directory, the schedule changes with the
            number of epochs and no way on is asked for, or the run is beyond the epochs that could
            be more.
    """
    if options.extend is not None and not options.resume:
        raise InputError("--extend: goes on with a run that is there, for longer; it needs --resume")
    if not options.resume:
        return config
    # Otherwise the configuration might be that of a run that another process is replacing.
    restore(options.run)
    if kind_of_run(options.run) is None:
        return config
    try:
        saved = config_from_file(type(config), options.run / CONFIG_FILE)
    except InputError:  # a comparison of both says more
        return config
    if config.epochs <= saved.epochs:
        # The same command once more, after a kill, goes on with what it began; with a config file, which
        # lacks the record of that, too.
        is_same = config.epochs == saved.epochs and bool(saved.extended)
        is_same = is_same and saved.extended[-1][1] in (options.extend, "constant")
        if options.extend is not None and not is_same:
            raise InputError(f"--extend: needs more than the {saved.epochs} epochs of the run; set --epochs")
        return replace(config, extended=saved.extended) if is_same and not config.extended else config
    if any(begin == saved.epochs for begin, _ in config.extended):
        return config  # one of several runs, of which others have gone on already
    done = Checkpoints(options.run).newest_epoch() or 0
    if done > saved.epochs or not config.trains:
        begun = "its selection or its evaluations have begun" if config.trains else "it trains nothing"
        raise FieldError(
            "epochs", f"{options.run} was begun with {saved.epochs} and {begun}; leave it out, or begin another run"
        )
    changing = config.changing()
    if changing and options.extend is None:
        raise InputError(
            f"{options.run}: the run was started with epochs {saved.epochs}, not {config.epochs}, and its schedules "
            f"({', '.join(changing)}) change with them; add --extend restart (they begin anew for the further epochs) or "
            "--extend tail (they stay at their last values), or begin anew with --overwrite"
        )
    way = options.extend if changing and options.extend is not None else "constant"
    return replace(config, extended=[*saved.extended, (saved.epochs, way)])
