"""How a slice of a volume, or a picture with more than 8 bits, becomes an 8-bit image."""

import math
import re
from dataclasses import dataclass

from .errors import UserError
from .limits import check_numbers, shorten

# Name -> level and width in Hounsfield units, the usual ones of radiology.
CT_WINDOWS = {"abdomen": (40, 400), "lung": (-600, 1500), "brain": (40, 80), "bone": (400, 1800)}
PERCENTILES = (0.5, 99.5)  # of all values of the volume; the default of scans that are not CT
MEASURED_WINDOWS = ("percentile", "full")  # windows that depend on the values of the volume
NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"


def parse_window(text: str) -> tuple[float, float] | None:
    """Returns the lowest and the highest value of a window: a name of `CT_WINDOWS`, or `LEVEL,WIDTH`.

    Values below it become 0, values above it 255. Returns None for a window that depends on the volume. Raises
    UserError for other text.
    """
    if text in MEASURED_WINDOWS:
        return None
    numbers: tuple[float, ...] | None = CT_WINDOWS.get(text)
    if numbers is None and re.fullmatch(f"{NUMBER},{NUMBER}", text, re.IGNORECASE):
        try:
            numbers = tuple(map(float, text.split(",")))
        except ValueError:
            numbers = None
    if numbers is None or not all(map(math.isfinite, numbers)) or numbers[1] <= 0:
        names = ", ".join([*CT_WINDOWS, *MEASURED_WINDOWS])
        raise UserError(f"window is {shorten(text)}; wanted {names}, or LEVEL,WIDTH, for example 40,400")
    level, width = numbers
    return level - width / 2, level + width / 2


@dataclass(frozen=True, order=True)
class SliceView:
    """Which slices of a volume are images, and how their values become 8 bits.

    Raises UserError if a value is outside its range.
    """

    axis: int | None = None  # the slices are perpendicular to this axis. None: the axis with the largest spacing
    window: str | None = None  # see `parse_window`. None: 8-bit values stay; others use `percentile`; CT needs a window
    context: int = 0  # 1: red, green and blue are the slice before, the slice and the slice after it

    def __post_init__(self) -> None:
        check_numbers({"axis": self.axis, "context": self.context})
        if self.window is not None:
            parse_window(self.window)


DEFAULT_VIEW = SliceView()
