"""The files that a test of prompts writes: scores, prompts and predicted masks."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...atomic import write_atomic, write_together
from ...data.checks.check import Column
from ...data.images.pictures import write_bytes
from ...data.packed import Mapped, find_positions, hash_all
from ...data.pairs import Pair
from ...data.volumes.slices import Source, find_file
from ...errors import UserError, shortlist
from ...runtime.parallel import batched
from ...runtime.versions import versions
from ...scoring.tables.csv_files import csv_text
from ..lists import find_repeated, make_unique_names, write_entries
from ..modes import PromptMode
from ..scores import average_answers
from .parts import CHUNK, AnswerTable, list_point_counts

PACKAGES = ("sam2unet", "torch", "numpy", "opencv-python-headless", "Pillow")
COLUMNS = ("image", "mask", "prompt", "dice", "iou", "quality", "loss")


class MaskPaths(Mapping[tuple[PromptMode, int], Path]):
    """The file of each predicted mask, by mode and position in the list.

    A file has the name of its mask. If masks have the same file name, their files also have the parts of the paths that
    differ.
    """

    def __init__(self, pairs: Sequence[Pair], modes: Sequence[PromptMode], target: Path):
        self.pairs, self.modes, self.target = pairs, modes, target
        self.is_repeated = find_repeated(hash_all(pair.mask.name for pair in pairs))
        folders = (os.path.dirname(os.path.abspath(pairs[int(i)].mask)) for i in np.flatnonzero(self.is_repeated))
        self.root = ""
        for number, folder in enumerate(folders):
            self.root = os.path.commonpath([self.root, folder]) if number else folder

    def read_name(self, index: int) -> Path:
        mask = self.pairs[index].mask
        is_repeated = self.is_repeated[index]
        return Path(os.path.relpath(os.path.abspath(mask), self.root) if is_repeated else mask.name).with_suffix(".png")

    def __getitem__(self, key: tuple[PromptMode, int]) -> Path:
        return self.target / key[0].folder / self.read_name(key[1])

    def __iter__(self) -> Iterator[tuple[PromptMode, int]]:
        return ((mode, index) for mode in self.modes for index in range(len(self.pairs)))

    def __len__(self) -> int:
        return len(self.modes) * len(self.pairs)


def list_mask_paths(pairs: Sequence[Pair], modes: Sequence[PromptMode], target: Path) -> MaskPaths:
    """Returns the files of the predicted masks.

    Raises UserError if a file would be written twice, or would overwrite a file of the list.
    """
    paths = MaskPaths(pairs, modes, target)
    hashes = hash_all(map(paths.read_name, range(len(pairs))))
    first = find_positions(hashes, hashes)
    if len(repeated := np.unique(first[first < np.arange(len(first))])):
        names = shortlist(Mapped(lambda i: str(paths.read_name(int(i))), repeated))
        raise UserError(f"--save_pred would write {len(repeated)} files more than once: {names}; rename the masks")
    folders = [folder.resolve() for mode in modes if (folder := target / mode.folder).is_dir()]
    sources = (source for pair in pairs for source in pair) if folders else ()
    inputs = {path for source in sources if any((path := resolve(source)).is_relative_to(f) for f in folders)}
    if inputs and (overwritten := next((path for path in paths.values() if path.resolve() in inputs), None)):
        raise UserError(f"--save_pred would overwrite {overwritten}, which is in the list; give another --save_path")
    return paths


def resolve(source: Source) -> Path:
    return find_file(source).resolve()


def write_prompt_results(
    folder: Path, pairs: Sequence[Pair], table: AnswerTable, side: int | None, facts: Mapping[str, object]
) -> tuple[list[str], dict[PromptMode, dict[str, float]]]:
    """Writes `results.json`, with `facts`, `per_mask.csv`, and with `side` the files of prompts.

    Returns the names of the files, and the means as `compute_means` does.
    """
    means = {
        mode: average_answers(len(table), *(table.read_scores(mode, name) for name in ("dice", "iou", "loss")))
        for mode in table.modes
    }
    by_title = {mode.title: row for mode, row in means.items()}
    results = {"means": by_title, **facts, "versions": versions(PACKAGES)}
    with write_together(folder) as part:
        write_bytes(part / "results.json", f"{json.dumps(results, indent=2)}\n".encode())
        with write_atomic(part / "per_mask.csv") as file:
            for rows in batched(list_csv_rows(pairs, table), CHUNK):
                file.write(csv_text(rows).encode())
        for count, name in name_prompt_files(table.modes, side).items() if side else ():
            write_entries(part / name, list_prompt_entries(pairs, table, count))
        return sorted(path.name for path in part.iterdir()), means


def list_csv_rows(pairs: Sequence[Pair], table: AnswerTable) -> Iterator[Sequence[object]]:
    """Yields the rows of `per_mask.csv`."""
    yield COLUMNS
    for rows in table.read_rows():
        for index, by_mode in zip(rows["index"].tolist(), rows["scores"].tolist(), strict=True):
            files = (find_file(source).as_posix() for source in pairs[index])
            start = list(files)
            for mode, scores in zip(table.modes, by_mode, strict=True):
                yield [*start, mode.title, *map(repr, scores)]


def name_prompt_files(modes: Sequence[PromptMode], side: int) -> dict[int, str]:
    """Returns the names of the files of prompts, by number of points.

    The smallest number of points has the released file name. The other names contain their number.
    """
    counts = list_point_counts(modes)
    return {n: f"{side}_prompt.json" if n == counts[0] else f"{side}_prompt_{n}pts.json" for n in counts}


def list_prompt_entries(pairs: Sequence[Pair], table: AnswerTable, count: int) -> Iterable[tuple[str, object]]:
    """Yields the entries of a file of prompts: the name of each mask, and its box and `count` points."""
    names = make_unique_names(Column(pairs, "mask"))
    for rows in table.read_rows():
        prompts = rows[f"prompts{count}"]
        columns = (prompts[name].tolist() for name in ("box", "coords", "labels"))
        for index, box, coords, labels in zip(rows["index"].tolist(), *columns, strict=True):
            yield names[index], {"boxes": box, "point_coords": coords, "point_labels": labels}
