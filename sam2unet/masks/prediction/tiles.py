"""Cuts large photographs into squares that overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ...limits import check_numbers, shorten


@dataclass(frozen=True)
class Tile:
    """A photograph that is larger than `side` is cut into squares of this side. Neighbours share `overlap` pixels."""

    side: int
    overlap: int

    def __post_init__(self) -> None:
        check_numbers({"tile": self.side})
        if not 0 <= self.overlap < self.side / 2:
            raise UserError(f"tile {self.side},{self.overlap}: the overlap must be from 0 to below half of the side")

    @classmethod
    def read(cls, text: str) -> Tile:
        """Reads `SIDE,OVERLAP`, or `SIDE`. The default overlap is a quarter of the side."""
        try:
            numbers = [int(word) for word in text.split(",")]
            return cls(*numbers) if len(numbers) > 1 else cls(numbers[0], numbers[0] // 4)
        except (TypeError, ValueError) as e:
            raise UserError(f"tile is {shorten(text)}; wanted SIDE,OVERLAP in pixels, such as 1024,128") from e


def list_tiles(width: int, height: int, tile: Tile | None) -> list[tuple[int, int, int, int]]:
    """Returns left, top, right and bottom of each tile. A small photograph is one tile."""
    if tile is None or max(width, height) <= tile.side:
        return [(0, 0, width, height)]
    columns, rows = (tile_starts(length, tile) for length in (width, height))
    return [(x, y, min(x + tile.side, width), min(y + tile.side, height)) for y in rows for x in columns]


def tile_starts(length: int, tile: Tile) -> list[int]:
    """Returns where tiles begin along a side. They are evenly spread; neighbours share at least the overlap."""
    if length <= tile.side:
        return [0]
    count = math.ceil((length - tile.overlap) / (tile.side - tile.overlap))
    return [round(number * (length - tile.side) / (count - 1)) for number in range(count)]


def fade_weights(length: int, overlap: int) -> Tensor:
    """Returns (length,) weights in (0, 1]: 1 in the middle, linearly smaller over `overlap` pixels at both ends."""
    center = torch.arange(length, dtype=torch.float32) + 0.5
    return torch.minimum(center, length - center).div_(max(overlap, 1)).clamp_(max=1)
