"""The images of a finished run as arguments of a command."""

import argparse
from collections.abc import Collection, Mapping
from typing import Any, get_args, get_type_hints

from training.images.data import DataConfig, list_datasets
from training.run.arguments import TRUTH, number, one_of, whole_number

_PREFIX = "data."


def _whole_number_or_null(text: str) -> int | None:
    return None if text == "null" else whole_number(text)


def _choice(field: str) -> dict[str, Any]:
    names = get_args(get_type_hints(DataConfig)[field])
    return {"type": one_of(names), "metavar": f"{{{','.join(names)}}}"}


UNLABELLED = ("size", "fit", "resize", "layout", "bits", "workers")
"""Fields of `DataConfig` that say how images without labels are read."""


def add_data_arguments(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """Adds the fields of `DataConfig` that describe the images, or `only` some of them; only those
    that are given are set."""
    data = parser.add_argument_group("data", f"Where left out, as in {'the training' if only else 'config.yaml of the run'}.")

    def given(name: str, **options: Any) -> None:
        if not only or name.removeprefix(f"--{_PREFIX}") in only:
            data.add_argument(name, default=argparse.SUPPRESS, **options)

    known = f"Data set: {', '.join(list_datasets())}, or one that was added with @register_dataset."
    given("--data.name", metavar="NAME", help=known)
    given("--data.root", metavar="DIR", help="Folder that holds the files of the data set; npz: the file.")
    given("--data.download", help="Download it where it is absent.", **TRUTH)
    size = "Resize images to that many a side; null: as they are. Without config.yaml: as large as those of the training."
    given("--data.size", type=_whole_number_or_null, metavar="PIXELS", help=size)
    given("--data.fit", **_choice("fit"), help="What is done to an image that is no square.")
    shorter = "With fit crop: pixels of the shorter side before the square is cut out; null: those of size."
    given("--data.resize", type=_whole_number_or_null, metavar="PIXELS", help=shorter)
    given("--data.gray", help="Folder: read images in shades of grey.", **TRUTH)
    given("--data.layout", **_choice("layout"), help="Npz: the axes of the images; auto: by their lengths.")
    used = "Folder: bits that are used of the 16 of a pixel; null: as in the training."
    given("--data.bits", type=_whole_number_or_null, metavar="N", help=used)
    train = "Folder: the folder in root that is the training part; . = root itself, each folder in it a class."
    given("--data.train_folder", metavar="FOLDER", help=train)
    test = "Folder: the folder in root that is the test part; none = a share of the training part."
    given("--data.test_folder", metavar="FOLDER", help=test)
    given("--data.test_fraction", type=number, metavar="SHARE", help="Folder without a test part: the share that is it.")
    given("--data.split_seed", type=whole_number, metavar="N", help="Folder without a test part: seed of the choice.")
    given("--data.skip_unreadable", help="Folder: leave out files that are no readable images.", **TRUTH)
    given("--data.loading", **_choice("loading"), help="Where batches come from.")
    given("--data.workers", type=_whole_number_or_null, metavar="N", help="Processes that read images; null: one a core.")


def data_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `DataConfig` that were given, from the parsed attributes."""
    return {name.removeprefix(_PREFIX): value for name, value in options.items() if name.startswith(_PREFIX)}
