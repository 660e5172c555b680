"""The prompt modes of the test: which prompts the model gets for a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..limits import check_numbers


class PromptMode(NamedTuple):
    """The prompts for a mask: its box; several points at once; or one point, then clicks that correct the answer."""

    box: bool = False  # prompt with the box. The other fields then keep their defaults.
    points: int = 1  # the number of points in the first round
    # the number of answers. Each round after the first adds one click where the previous answer is wrong.
    rounds: int = 1

    @property
    def title(self) -> str:
        """The name in tables, for example `3 pts`."""
        if self.box:
            return "box"
        if self.rounds > 1:
            return f"{self.rounds} clicks"
        return f"{self.points} pt{'s' * (self.points > 1)}"

    @property
    def folder(self) -> str:
        """The name of the folder for predicted masks, for example `points3_prompt`."""
        kind = f"iter{self.rounds}" if self.rounds > 1 else f"points{self.points}"
        return f"{'boxes' if self.box else kind}_prompt"


BOX = PromptMode(box=True)
PAPER = (BOX, PromptMode(points=1), PromptMode(points=3), PromptMode(points=5))  # the columns of the published table


@dataclass(frozen=True)
class PromptTestFlags:
    """The flags of test.py that choose the modes, with the released names. Raises UserError for wrong numbers."""

    boxes_prompt: bool | None = None  # prompt with boxes. None: the flag was not given.
    point_num: Sequence[int] = ()  # numbers of points. Each one is a mode.
    iter_point: Sequence[int] = ()  # numbers of rounds that start with one point. Each one is a mode.

    def __post_init__(self) -> None:
        check_numbers(vars(self))

    def choose_modes(self, point_counts: Sequence[int] = ()) -> tuple[PromptMode, ...]:
        """Returns the modes of the test, without duplicates.

        Without flags, returns the four columns of the paper. With `--boxes_prompt False` alone, returns one point, as
        the released script does. `point_counts`, the numbers of points in the files of prompts, replace these defaults.
        """
        modes = [PromptMode(points=n) for n in self.point_num] + [PromptMode(rounds=n) for n in self.iter_point]
        if not modes and self.boxes_prompt is not True:
            default = [mode for mode in PAPER if not mode.box] if self.boxes_prompt is None else [PromptMode(points=1)]
            modes = [PromptMode(points=n) for n in point_counts] or default
        return tuple(dict.fromkeys([BOX, *modes] if self.boxes_prompt is not False else modes))
