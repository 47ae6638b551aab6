"""The images that several runs held out of their training, all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base.checks import InputError
from training.images.data import halves
from training.images.prints import PRINTS_FILE, Prints, SeenImages
from training.images.sets import Images


@dataclass(frozen=True)
class Division:
    """The training images of a run, and how it divided them."""

    run: Path
    """Directory of the run."""
    images: Images
    """The training part, as it is now."""
    fraction: float
    """Share that was held out."""
    seed: int

    def parts(self) -> tuple[Tensor, Tensor]:
        """Returns the places of the images that were trained on and of those that were held out, as
        `ImageData.split` divides them.

        Raises InputError where it is not known that these are the images that the run had.
        """
        seen, prints = SeenImages.read(self.run), self.prints
        if seen is None:
            raise InputError(f"{self.run} has no {PRINTS_FILE}, which says what it was trained on")
        if change := seen.change("train", prints):
            raise InputError(f"the training images of {self.run} have changed since: {change}")
        return halves(len(self.images), 1 - self.fraction, self.seed)

    @property
    def prints(self) -> Prints:
        """Returns names and prints of the images. Raises InputError where there are none."""
        if self.images.prints is None:
            raise InputError(f"of the training images of {self.run} nothing tells one from another")
        return self.images.prints


def held_out_of_all(divisions: Sequence[Division], test: Prints | None) -> list[Images]:
    """Returns, for each of the runs, which have one data set, the images that every one of them held
    out, in one order and as its network wants them.

    Copies of images that one of them was trained on, or that are in the `test` part, are left out.
    Raises InputError, with the reason, where there are none.
    """
    trained = [] if test is None else [test.contents]
    held: list[dict[str, int]] = []
    for division in divisions:
        first, second = division.parts()
        prints, seen = division.prints, SeenImages.read(division.run)
        trained.append(prints.contents[first])
        if seen is not None:
            trained.append(seen.earlier)
        held.append({prints.names[place]: place for place in second.tolist()})
    names = [name for name in held[0] if all(name in others for others in held[1:])]
    contents = divisions[0].prints.contents[torch.tensor([held[0][name] for name in names], dtype=torch.int64)]
    fresh = (~torch.isin(contents, torch.cat(trained))).tolist()
    names = [name for name, is_fresh in zip(names, fresh, strict=True) if is_fresh]
    if not names:
        raise InputError("no image was held out by every one of them")
    return [
        division.images.take(torch.tensor([places[name] for name in names]))
        for division, places in zip(divisions, held, strict=True)
    ]
