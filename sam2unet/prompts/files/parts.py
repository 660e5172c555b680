"""Answers of a test on the disk. Each process writes its answers into a part, and one process joins all parts.

A part is a line of JSON, which says what the answers belong to, and then a row of numbers for each mask. The rows are
in the order in which the masks were answered.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ...atomic import write_atomic
from ...errors import UserError
from ...runtime.shards import Shard
from ..modes import PromptMode
from ..scores import Answer

CHUNK = 4096  # rows in memory
MAGIC = "answers of sam2unet test"  # the first value in a part
SCORES = ("dice", "iou", "quality", "loss")  # the columns of `scores`


def name_answer_part(shard: Shard) -> str:
    return f"part-{shard.number}-of-{shard.count}.answers"


def choose_row_type(modes: Sequence[PromptMode], has_prompts: bool) -> np.dtype:
    """Returns the type of a row: the position of the mask, the scores of all modes, and the prompts by their points."""
    prompts = [
        (f"prompts{count}", [("box", "<f4", (1, 4)), ("coords", "<f4", (count, 2)), ("labels", "i1", (count,))])
        for count in list_point_counts(modes)
    ]
    return np.dtype([("index", "<i8"), ("scores", "<f8", (len(modes), len(SCORES))), *(prompts if has_prompts else [])])


def list_point_counts(modes: Sequence[PromptMode]) -> list[int]:
    return sorted({mode.points for mode in modes})


def write_answer_part(
    path: Path, facts: Mapping[str, object], modes: Sequence[PromptMode], has_prompts: bool, answers: Iterable[Answer]
) -> None:
    """Writes a part, completely or not at all. The answers for a mask come in the order of `modes`.

    `facts` say what the answers belong to. If `has_prompts`, the first mode with a number of points has the prompts.
    """
    refuse_other_file(path)
    row_type = choose_row_type(modes, has_prompts)
    rows: dict[int, ndarray] = {}  # of the masks that not all modes have answered
    with write_atomic(path) as file:
        file.write(f"{json.dumps({'kind': MAGIC, **facts})}\n".encode())
        for answer in answers:
            row = rows.setdefault(answer.index, np.zeros(1, row_type))
            place = modes.index(answer.mode)
            row["index"] = answer.index
            row["scores"][0, place] = [getattr(answer, name) for name in SCORES]
            if has_prompts and answer.prompts is not None:
                prompts, (coords, labels) = row[f"prompts{answer.mode.points}"], answer.prompts.points
                prompts["box"], prompts["coords"], prompts["labels"] = answer.prompts.boxes, coords, labels
            if place == len(modes) - 1:
                file.write(rows.pop(answer.index).tobytes())


def read_part_facts(path: Path) -> dict[str, Any] | None:
    """Returns the `facts` of a part, or None if there is no such file or it is no part."""
    try:
        with open(path, "rb") as file:
            facts = json.loads(file.readline(1 << 20))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.pop("kind", None) == MAGIC else None


def refuse_other_file(path: Path) -> None:
    """Raises UserError if the file exists and is no part."""
    if path.exists() and read_part_facts(path) is None:
        raise UserError(f"{path} exists, and this project did not write it; give another --save_path")


def find_answer_parts(folder: Path, count: int, facts: Mapping[str, object]) -> list[Path]:
    """Returns those of `count` parts that are in the folder and belong to the same test."""
    names = set(os.listdir(folder))  # a new list, because network file systems remember that a file was not there
    paths = [folder / name for number in range(count) if (name := name_answer_part(Shard(number + 1, count))) in names]
    return [path for path in paths if read_part_facts(path) == facts]


@contextmanager
def lock_answer_parts(folder: Path) -> Iterator[None]:
    """A context whose body one process at a time runs. The others wait."""
    path = folder / ".join.sam2unet.lock"
    with open(path, "a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, also if it is killed
        yield
        path.unlink(missing_ok=True)


class AnswerTable:
    """The answers of several parts, in the order of the list. The rows stay on the disk."""

    def __init__(self, paths: Sequence[Path], modes: Sequence[PromptMode], has_prompts: bool):
        self.modes, self.row_type = tuple(modes), choose_row_type(modes, has_prompts)
        self.parts = [self.open(path) for path in paths]
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.indices = np.concatenate([part["index"] for part in self.parts])
        self.order = np.argsort(self.indices, kind="stable")

    def open(self, path: Path) -> ndarray:
        with open(path, "rb") as file:
            start = len(file.readline())
            count, rest = divmod(os.fstat(file.fileno()).st_size - start, self.row_type.itemsize)
        if rest:
            raise UserError(f"{path} is damaged; remove it, and run its share again")
        return np.memmap(path, self.row_type, "r", start, (count,)) if count else np.empty(0, self.row_type)

    def __len__(self) -> int:
        return len(self.order)

    def read_rows(self) -> Iterator[ndarray]:
        """Yields the rows, some at a time."""
        for start in range(0, len(self), CHUNK):
            places = self.order[start : start + CHUNK]
            rows = np.empty(len(places), self.row_type)
            for part, end in zip(self.parts, self.ends, strict=True):
                is_here = (places >= end - len(part)) & (places < end)
                rows[is_here] = part[places[is_here] - (end - len(part))]
            yield rows

    def read_scores(self, mode: PromptMode, name: str) -> Iterator[float]:
        column = self.modes.index(mode), SCORES.index(name)
        return (value for rows in self.read_rows() for value in rows["scores"][:, column[0], column[1]].tolist())
