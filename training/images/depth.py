"""Images of 16 bits a pixel, of which often fewer are used, on their way to bytes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.checks import FieldError, InputError, Name
from base.texts import excerpt

if TYPE_CHECKING:
    from PIL.Image import Image

DEPTHS = (8, 10, 12, 14, 16)
"""Numbers of bits that may be used."""
ANSWER = ("; say how many bits are used with --", Name("data.bits"))


@dataclass
class Seen:
    """The largest values in files of 16 bits; 0 where there is none."""

    gray: int = 0
    """Of 16 bits, in shades of grey."""
    colour: int = 0
    """Of the upper 8 of 16 bits, in colours: the others are lost when such a file is opened."""

    def add(self, other: "Seen") -> None:
        """Takes in what was seen elsewhere."""
        self.gray, self.colour = max(self.gray, other.gray), max(self.colour, other.colour)


class BeyondBits(InputError):
    """A pixel is larger than the bits hold that are said to be used."""


def check_bits(bits: int | None) -> None:
    """Raises FieldError, of the field bits, for a number of bits that no format uses."""
    if bits is not None and bits not in DEPTHS:
        raise FieldError("bits", f"must be one of {', '.join(map(str, DEPTHS))}, or null, not {excerpt(bits)}")


def used_bits(largest: int) -> int:
    """Returns the fewest of `DEPTHS` that hold the largest value of all images."""
    return next(bits for bits in DEPTHS if largest < 2**bits)


def to_bytes(image: "Image", bits: int, seen: Seen) -> "Image":
    """Returns an image of whole numbers, of which `bits` are used, in 256 shades of grey.

    Raises InputError for floating or negative pixels or those of more than 16 bits, and BeyondBits
    for those of more than `bits`.
    """
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise InputError(f"pixels of mode {image.mode}, which have no known largest value; an .npz file can hold them")
    largest, most = int(values.max()), 2**bits - 1
    if largest > most:
        raise BeyondBits(f"has a pixel of {largest}, beyond the {bits} bits that are used of the 16 in training images")
    seen.gray = max(seen.gray, largest)
    return Image.fromarray(((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8))


def is_cut_colour(image: "Image") -> bool:
    """Says whether the file has 16 bits for each colour, of which opening it keeps the upper 8."""
    return image.mode in ("RGB", "RGBA", "RGBX", "LA") and ";16" in str(getattr(image, "tile", ""))


def check_colour(seen: Seen) -> None:
    """Raises InputError if colours of 16 bits use so few of them that shades are lost."""
    if seen.colour and (bits := used_bits(seen.colour << 8 | 0xFF)) < DEPTHS[-1]:
        raise FieldError(
            "data.root",
            f"images in colour have 16 bits a pixel, of which at most {bits} are used, and only the upper 8 of the 16 can be "
            "read; convert them to 8 bits, or take them as they are with --",
            Name("data.bits"),
            " 16",
        )
