"""The classes of a data set: their names, their values in the masks, and their colours. A YAML file holds them:

    classes:                      # in the order of the outputs of the network; the first is the background
      - {name: background, value: 0, color: [0, 0, 0]}
      - {name: liver, value: 1, color: [220, 20, 60]}
    ignore: 255                   # optional; these pixels count nowhere

If no class has a `value`, the masks are RGB images, and the colours decide.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from .atomic import read_yaml
from .errors import UserError, shortlist
from .limits import shorten

IGNORED = 255  # the index of the pixels that count nowhere
LIMIT = 255  # the largest number of classes: an index has 8 bits
LARGEST = {"value": 2**16 - 1, "color": 255}
EXAMPLE = "wanted e.g. {name: liver, value: 1, color: [220, 20, 60]}"
Color = tuple[int, int, int]  # red, green and blue, 0 to 255


class UnknownValues(UserError):
    """A mask has values that belong to no class.

    Attributes:
        counts: the number of pixels of each such value, for the most frequent ones. An RGB colour is one number, see
            `pack_color`.
        path: the file.
    """

    def __init__(self, counts: dict[int, int], path: Any, classes: Classes):
        self.counts, self.path = counts, path
        super().__init__(f"{path} has values of no class: {classes.describe_unknown(counts)}")


@dataclass(frozen=True)
class MaskClass:
    """A class. `value` is None if the masks are RGB images."""

    name: str
    value: int | None
    color: Color


@dataclass(frozen=True)
class Classes:
    """All classes, in the order of the outputs of a network. The index of a class is its place in this order.

    Raises UserError if a name, a value or a colour stands for two classes.

    Attributes:
        ignore: the values in the masks that count nowhere; colours from `pack_color` if the masks are RGB images.
    """

    items: tuple[MaskClass, ...]
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.items) <= LIMIT:
            raise UserError(f"there are {len(self.items)} classes; wanted 2 to {LIMIT}, with the background")
        if len({item.value is None for item in self.items}) > 1:
            raise UserError("some classes have a value and some have none; give all a value, or none for RGB masks")
        checked: list[tuple[str, Sequence[str | int]]] = [("name", self.names)]
        for what, values in (*checked, ("value" if self.has_values else "colour", self.codes)):
            if double := [value for value in values if values.count(value) > 1]:
                raise UserError(f"two classes have the {what} {shorten(double[0])}; give each its own")
        if shared := set(self.ignore) & set(self.codes):
            raise UserError(f"ignore has {self.describe(min(shared))}, which is a class")

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.items]

    @property
    def has_values(self) -> bool:
        """Whether the values of grey or palette masks decide, not the colours of RGB masks."""
        return self.items[0].value is not None

    @property
    def codes(self) -> list[int]:
        """The value of each class in a mask; its packed colour if the masks are RGB images."""
        return [pack_color(item.color) if item.value is None else item.value for item in self.items]

    @cached_property
    def palette(self) -> np.ndarray:
        """uint8 (256, 3), the colour of each index. Indices without class, also the ignored one, are black."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self.items)] = [item.color for item in self.items]
        return colors

    @cached_property
    def table(self) -> np.ndarray:
        """uint16 (65536,), the index of each value of a mask; 256 for a value that is neither a class nor ignored."""
        table = np.full(LARGEST["value"] + 1, 256, np.uint16)
        table[list(self.ignore)] = IGNORED
        table[self.codes] = range(len(self.items))
        return table

    def to_indices(self, codes: np.ndarray, path: os.PathLike[str]) -> np.ndarray:
        """Integers (H, W), as `codes`, -> uint8 (H, W), the index of each pixel or `IGNORED`.

        Raises UnknownValues if a value is neither a class nor ignored.
        """
        if self.has_values and codes.dtype in (np.uint8, np.uint16):  # a table is faster than a search for each pixel
            # OpenCV is twice as fast as numpy, but only for 8 bits.
            index = cv2.LUT(codes, self.table[:256]) if codes.dtype == np.uint8 else self.table.take(codes)
        else:
            known = np.array([*self.codes, *self.ignore])
            order = np.argsort(known)
            place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
            index = np.array([*range(len(self.items)), *[IGNORED] * len(self.ignore)], np.uint16)[order][place]
            index[known[order][place] != codes] = 256
        if index.max() == 256:
            values, counts = np.unique(codes[index == 256], return_counts=True)
            most = np.sort(np.argsort(-counts, kind="stable")[: LIMIT + 1])
            raise UnknownValues(dict(zip(values[most].tolist(), counts[most].tolist(), strict=True)), path, self)
        return index.astype(np.uint8)

    def describe(self, code: int) -> str:
        """Returns a value as text; a packed colour as `[red, green, blue]`."""
        return str(code) if self.has_values else str(unpack_color(code))

    def describe_unknown(self, counts: Mapping[int, int], files: Mapping[int, Sequence[str]] | None = None) -> str:
        """Returns text such as `11 (1,204 pixels in 2 files: a.png, b.png); add the line ..., or ignore: 11`.

        `counts` has the number of pixels of each value; `files` the names of the masks with this value, if several.
        """
        shown = sorted(counts, key=lambda code: -counts[code])[:6]
        places = {code: f" in {len(files[code])} files: {shortlist(files[code], 3)}" if files else "" for code in shown}
        text = ", ".join(f"{self.describe(code)} ({counts[code]:,} pixels{places[code]})" for code in shown)
        more = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
        if self.has_values and (shown[0] % 1 or not 0 <= shown[0] <= LARGEST["value"]):
            return f"{text}{more}; change the masks: a value is a whole number from 0 to {LARGEST['value']}"
        key, code = "value" if self.has_values else "color", self.describe(shown[0])
        ignore = f"[{', '.join(map(self.describe, [*self.ignore, shown[0]]))}]" if self.ignore else code
        return f"{text}{more}; add the line `- {{name: ..., {key}: {code}}}` to the classes, or `ignore: {ignore}`"

    @classmethod
    def number(cls, count: int) -> Classes:
        """Returns classes for a network whose classes are not known: `class 0` with value 0, and so on."""
        return cls(tuple(MaskClass(f"class {index}", index, pick_color(index)) for index in range(count)))

    @classmethod
    def read(cls, path: Path) -> Classes:
        """Reads a YAML file with the keys `classes` and `ignore`. Raises UserError for any other content."""
        entries = read_yaml(path)
        if unknown := sorted(set(entries) - {"classes", "ignore"}):
            raise UserError(f"{path}: unknown key {shorten(unknown[0])}; known are classes and ignore")
        return cls.from_entries(entries, path)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any], path: Path | str) -> Classes:
        """Reads the content of a YAML file; `path` is for error messages. The inverse of `to_entries`."""
        try:
            rows = entries.get("classes")
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise UserError(f"`classes` must be a list of classes; {EXAMPLE}")
            items = tuple(read_class(row, index) for index, row in enumerate(rows))
            ignore = entries.get("ignore") or ()
            if isinstance(ignore, (str, int, Mapping)):
                ignore = [ignore]
            if items and items[0].value is None:
                ignore = [ignore] if ignore and isinstance(ignore[0], (str, int)) else ignore
                return cls(items, tuple(pack_color(read_color(color)) for color in ignore))
            return cls(items, tuple(read_number(value, "value") for value in ignore))
        except UserError as e:
            raise UserError(f"{path}: {e}") from None

    def to_entries(self) -> dict[str, Any]:
        """Returns the content of a YAML or JSON file."""
        rows = [
            {"name": item.name} | ({} if item.value is None else {"value": item.value}) | {"color": list(item.color)}
            for item in self.items
        ]
        ignore = [code if self.has_values else unpack_color(code) for code in self.ignore]
        return {"classes": rows} | ({"ignore": ignore[0] if len(ignore) == 1 else ignore} if ignore else {})

    def to_yaml(self) -> str:
        entries = self.to_entries()
        options: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "width": 1000}
        lines = [f"  - {yaml.safe_dump(row, **options).strip()}" for row in entries["classes"]]
        ignore = [f"ignore: {entries['ignore']}"] if "ignore" in entries else []
        return "\n".join(["classes:", *lines, *ignore, ""])


def read_class(row: object, index: int) -> MaskClass:
    if not isinstance(row, Mapping) or not row.get("name") or set(row) - {"name", "value", "color"}:
        raise UserError(f"class {index + 1} is {shorten(row)}; {EXAMPLE}")
    if "value" not in row and "color" not in row:
        raise UserError(f"class {shorten(row['name'])} has neither value nor color; {EXAMPLE}")
    value = read_number(row["value"], "value") if "value" in row else None
    return MaskClass(str(row["name"]), value, read_color(row["color"]) if "color" in row else pick_color(index))


def read_number(value: object, key: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()) or int(text) > LARGEST[key]:
        raise UserError(f"{key} is {shorten(text)}; it must be a whole number from 0 to {LARGEST[key]}")
    return int(text)


def read_color(value: object) -> Color:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise UserError(f"color is {shorten(value)}; wanted red, green and blue, e.g. [220, 20, 60]")
    red, green, blue = (read_number(part, "color") for part in value)
    return red, green, blue


def pack_color(color: Sequence[int]) -> int:
    """Returns a colour as one number: red * 65536 + green * 256 + blue."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack_color(code: int) -> list[int]:
    return [code >> 16, code >> 8 & 255, code & 255]


def pick_color(index: int) -> Color:
    """Returns a colour for a class without one. The first class is black, and neighbours differ clearly."""
    if index == 0:
        return 0, 0, 0
    hue, value = index * 0.61803 % 1, 1 - 0.2 * (index // 7 % 3)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value))
    return red, green, blue
