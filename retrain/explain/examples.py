"""The images that a network is explained on: read, and chosen among what it gets right and wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base.checks import FieldError, InputError
from base.seeds import new_generator
from base.texts import escape, excerpt
from retrain.evaluate import load_test_images
from retrain.evaluation.networks import Run
from training.images.inputs import PixelReader
from training.images.listing import Listing


@dataclass(frozen=True)
class Examples:
    """Images with the classes that they are of."""

    source: str
    """Where they are from, in words."""
    pixels: Tensor
    """uint8 or, if the scale of the format is 1, float32 [N, C, H, W]."""
    names: tuple[str, ...]
    """A file, or the place in the test part."""
    labels: Tensor | None
    """Class of each, int64 [N]; None: it is not known."""
    notes: tuple[str, ...] = ()
    """Lines on what was left out."""
    unreadable: tuple[str, ...] = ()
    """The problem of each file that cannot be read, in one line that names it."""

    def __len__(self) -> int:
        return len(self.pixels)


def from_test_part(run: Run, most: int, seed: int, device: torch.device) -> Examples:
    """Returns the test images of a run, or `most` of them drawn by chance.

    Raises InputError as `load_test_images` does.
    """
    (images,) = load_test_images([run], device)
    chosen = torch.arange(len(images))
    notes = list(images.notes)
    if len(images) > most:
        chosen = torch.randperm(len(images), generator=new_generator(seed, "explained part"))[:most].sort().values
        notes.append(f"{most:,} of {len(images):,} test images, drawn with seed {seed}")
    names = tuple(f"test image {place}" for place in chosen.tolist())
    if images.prints is not None and run.settings.data.name == "folder":
        names = images.prints.take(chosen).names
    return Examples("the test part", images.pixels(chosen), names, images.labels[chosen], tuple(notes))


def from_files(run: Run, paths: Sequence[Path], most: int, seed: int) -> Examples:
    """Returns the images in a folder, or in files, read as those of the training were.

    The folders in a folder that are named as classes give its images their classes. Of more than
    `most` images so many are drawn by chance. Raises InputError where there is no image, or where
    none of the folders is a class.
    """
    reader, classes = PixelReader(run.trained.format, run.trained.resizing), run.trained.format.class_names
    try:
        reader.check_files()
    except InputError as error:
        raise FieldError("images", *error.parts) from error
    for path in paths:
        if not path.exists():
            raise FieldError("images", f"{path}: no such file or folder")
    if len(paths) == 1 and paths[0].is_dir():
        files, labels, notes = _in_folder(paths[0], classes)
    elif any(path.is_dir() for path in paths):
        raise FieldError("images", "name one folder, or files alone")
    else:
        files, labels, notes = [str(path) for path in paths], None, []
    if len(files) > most:
        chosen = torch.randperm(len(files), generator=new_generator(seed, "explained part"))[:most].sort().values.tolist()
        notes.append(f"{most:,} of {len(files):,} images, drawn with seed {seed}")
        files = [files[place] for place in chosen]
        labels = None if labels is None else [labels[place] for place in chosen]
    pixels, read, unreadable = _read(files, reader)
    if not pixels:
        raise FieldError("images", f"no image can be read: {unreadable[0]}")
    kept = None if labels is None else torch.tensor([labels[place] for place in read])
    names = tuple(files[place] for place in read)
    return Examples(", ".join(map(str, paths[:3])), torch.stack(pixels), names, kept, tuple(notes), tuple(unreadable))


def _in_folder(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int] | None, list[str]]:
    """Returns the images in a folder, their classes, and notes."""
    try:
        listing = Listing()
        entries, beside = listing.folders(str(folder))
        found = {entry.name: listing.images(entry.path).files for entry in entries}
    except OSError as error:
        raise FieldError("images", f"{error.filename}: cannot be read: {error.strerror}") from error
    full = {name: files for name, files in found.items() if files}
    if not full:
        if not beside.files:
            raise FieldError("images", f"{folder}: no images found")
        return beside.files, None, listing.notes()
    known = [name for name in full if name in classes]
    if not known:
        theirs, ours = (", ".join(map(excerpt, [*names][:5])) for names in (full, classes))
        raise FieldError("images", f"{folder}: its folders ({theirs}) are none of the classes ({ours})")
    notes = listing.notes()
    if unknown := [name for name in full if name not in classes]:
        notes.append(f"left out, none of the classes: {', '.join(map(excerpt, unknown[:8]))}")
    if beside.files:
        notes.append(f"left out: {len(beside.files):,} images in {escape(str(folder))} itself, in no folder of a class")
    files = [file for name in known for file in full[name]]
    return files, [classes.index(name) for name in known for _ in full[name]], notes


def _read(files: Sequence[str], reader: PixelReader) -> tuple[list[Tensor], list[int], list[str]]:
    """Returns the pixels of those files that can be read, their places, and the problems of the
    others."""
    pixels, read, unreadable = [], [], []
    for place, file in enumerate(files):
        try:
            pixels.append(reader.of_file(file))
            read.append(place)
        except InputError as error:
            unreadable.append(f"{file}: {error}")
    return pixels, read, unreadable


def choose(predicted: Tensor, labels: Tensor | None, each: int, most: int, seed: int) -> Tensor:
    """Returns the places of the images that are explained, ordered by class.

    For each class they are up to `each` that the network recognises and as many that it takes for
    another class, drawn by chance; without labels, up to `each` for each predicted class. Where
    these are more than `most`, as many of each sort are left out.
    """
    order = torch.randperm(len(predicted), generator=new_generator(seed, "explained")).tolist()
    taken: dict[tuple[int, bool], int] = {}
    chosen = []
    for place in order:
        label = int(predicted[place] if labels is None else labels[place])
        sort = label, bool(predicted[place] != label)
        rank = taken.get(sort, 0)
        if rank < each:
            taken[sort] = rank + 1
            chosen.append((rank, sort, place))
    kept = sorted(chosen, key=lambda one: one[0])[:most]  # stable: by chance within a rank
    return torch.tensor([place for _, _, place in sorted(kept, key=lambda one: (one[1], one[0]))])
