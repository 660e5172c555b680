"""The files that a test of prompts writes: scores, prompts and predicted masks."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import write_together
from ..data.pairs import Pair
from ..data.pictures import write_bytes
from ..data.slices import find_file
from ..errors import UserError, shortlist
from ..runtime.versions import versions
from ..scoring.csv_files import csv_text
from .lists import BoxAndPoints, make_unique_names, write_prompts
from .modes import PromptMode
from .scores import Answer, compute_means

PACKAGES = ("sam2unet", "torch", "numpy", "opencv-python-headless", "Pillow")
COLUMNS = ("image", "mask", "prompt", "dice", "iou", "quality", "loss")


def list_mask_paths(
    pairs: Sequence[Pair], modes: Sequence[PromptMode], target: Path
) -> dict[tuple[PromptMode, int], Path]:
    """Returns the file of each predicted mask, by mode and position in the list.

    A file has the name of its mask. If masks have the same file name, their files also have the parts of the paths that
    differ. Raises UserError if a file would be written twice, or would overwrite a file of the list.
    """
    counts = Counter(pair.mask.name for pair in pairs)
    full = {pair.mask: Path(os.path.abspath(pair.mask)) for pair in pairs if counts[pair.mask.name] > 1}
    root = os.path.commonpath([path.parent for path in full.values()]) if full else ""
    masks = [pair.mask for pair in pairs]
    names = [(full[mask].relative_to(root) if mask in full else Path(mask.name)).with_suffix(".png") for mask in masks]
    if repeated := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"--save_pred would write {len(repeated)} files more than once: {shortlist(repeated)}; rename the masks"
        )
    paths = {(mode, index): target / mode.folder / name for mode in modes for index, name in enumerate(names)}
    inputs = {path.resolve() for pair in pairs for path in pair}
    if overwritten := next((path for path in paths.values() if path.resolve() in inputs), None):
        raise UserError(f"--save_pred would overwrite {overwritten}, which is in the list; give another --save_path")
    return paths


def write_prompt_results(
    folder: Path,
    pairs: Sequence[Pair],
    answers: Sequence[Answer],
    prompts: Mapping[str, Mapping[str, BoxAndPoints]],
    facts: Mapping[str, object],
) -> list[str]:
    """Writes `results.json`, with `facts`, `per_mask.csv` and the files of `prompts`. Returns their names."""
    means = {mode.title: row for mode, row in compute_means(answers).items()}
    rows = [list(COLUMNS)]
    for answer in answers:
        pair = pairs[answer.index]
        scores = (repr(value) for value in (answer.dice, answer.iou, answer.quality, answer.loss))
        files = (find_file(pair.image).as_posix(), find_file(pair.mask).as_posix())
        rows.append([*files, answer.mode.title, *scores])
    results = {"means": means, **facts, "versions": versions(PACKAGES)}
    texts = {"results.json": json.dumps(results, indent=2) + "\n", "per_mask.csv": csv_text(rows)}
    with write_together(folder) as part:
        for name, text in texts.items():
            write_bytes(part / name, text.encode())
        for name, entries in prompts.items():
            write_prompts(part / name, entries)
        return sorted(path.name for path in part.iterdir())


def group_prompts_by_file(
    pairs: Sequence[Pair], answers: Sequence[Answer], side: int
) -> dict[str, dict[str, BoxAndPoints]]:
    """Returns the prompts by file, then by the name of their mask. Each number of points has a file.

    The smallest number of points has the released file name. The other names contain their number.
    """
    names = make_unique_names([pair.mask for pair in pairs])
    counts = sorted({answer.mode.points for answer in answers})
    files = {n: f"{side}_prompt.json" if n == counts[0] else f"{side}_prompt_{n}pts.json" for n in counts}
    entries: dict[str, dict[str, BoxAndPoints]] = {file: {} for file in files.values()}
    for answer in answers:
        if answer.prompts is not None:
            entries[files[answer.mode.points]][names[answer.index]] = answer.prompts
    return entries
