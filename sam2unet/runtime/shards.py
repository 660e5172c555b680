"""Shares of one job, for example of a SLURM job array: `--shard 2/8` does the second of eight shares."""

import re
from typing import NamedTuple

from ..errors import UserError


class Shard(NamedTuple):
    """The share `number`, from 1, of `count` shares. The shares take turns, so the first files go to all of them."""

    number: int = 1
    count: int = 1  # type: ignore[assignment]  # hides `tuple.count`

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Reads `I/N`. Raises UserError for any other text."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard is {text}; wanted I/N, for example 2/8 for the second of eight shares")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def takes(self, position: int) -> bool:
        """Returns whether the element at `position`, from 0, belongs to this share."""
        return position % self.count == self.number - 1
