"""Reads and writes the JSON files of SAM-Med2D: lists of images with their masks, and prompts of a test.

The formats are those of the released code. Letters: N points per mask.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from ..atomic import read_json, write_atomic
from ..data.checks.check import check_sources, measure_sizes
from ..data.index.table import ImageMasks
from ..data.mask_values import refuse_constant
from ..data.packed import Mapped, find_positions, hash_all
from ..data.pairs import Pair
from ..data.volumes.slices import Source, find_file
from ..errors import UserError, shortlist
from ..runtime.processes import ALONE, Processes
from .clicks import Points
from .framing import Frame, Framing

ImageSizes = Mapping[Source, tuple[int, ...] | UserError]
TRAIN_LIST, TEST_LIST = "image2label_train.json", "label2image_test.json"


class BoxAndPoints(NamedTuple):
    """The first prompts for one mask, in pixels of the square: a test uses the box or the points."""

    boxes: torch.Tensor  # float32 (1, 4), x0, y0, x1, y1
    points: Points  # coordinates float32 (1, N, 2) and labels int64 (1, N)


def read_train_list(folder: Path) -> list[ImageMasks]:
    """Reads `image2label_train.json` of a folder, {image: [mask, ...]}, in its order. All paths must exist."""
    path = folder / TRAIN_LIST
    entries = read_object(path, "sam2unet make-prompts makes the lists")
    if wrong := [image for image, masks in entries.items() if not is_list_of_paths(masks)]:
        raise UserError(f"{path}: {len(wrong)} of {len(entries)} images have no list of mask paths: {shortlist(wrong)}")
    if empty := [image for image, masks in entries.items() if not masks]:
        raise UserError(
            f"{path}: {len(empty)} of {len(entries)} images have an empty list of masks: {shortlist(empty)}"
        )
    items = [ImageMasks(Path(image), tuple(map(Path, masks))) for image, masks in entries.items()]
    check_sources_exist(path, "images", [item.image for item in items])
    check_sources_exist(path, "masks", [mask for item in items for mask in item.masks])
    return items


def read_test_list(folder: Path) -> list[Pair]:
    """Reads `label2image_test.json` of a folder, {mask: image}, in its order. All paths must exist."""
    path = folder / TEST_LIST
    entries = read_object(path, "sam2unet make-prompts makes the lists")
    if wrong := [mask for mask, image in entries.items() if not isinstance(image, str)]:
        raise UserError(f"{path}: {len(wrong)} of {len(entries)} masks have no image path: {shortlist(wrong)}")
    pairs = [Pair(Path(image), Path(mask)) for mask, image in entries.items()]
    check_sources_exist(path, "masks", [pair.mask for pair in pairs])
    check_sources_exist(path, "images", list(dict.fromkeys(pair.image for pair in pairs)))
    return pairs


def write_train_list(folder: Path, items: Sequence[ImageMasks]) -> None:
    entries = {name_in_list(item.image): [*map(name_in_list, item.masks)] for item in items}
    write_entries(folder / TRAIN_LIST, entries.items())


def write_test_list(folder: Path, pairs: Sequence[Pair]) -> None:
    entries = {name_in_list(pair.mask): name_in_list(pair.image) for pair in pairs}
    write_entries(folder / TEST_LIST, entries.items())


def name_in_list(source: Source) -> str:
    """Returns the path of an image or a mask as a list has it."""
    return find_file(source).as_posix()


def group_masks(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Returns the masks of each image, and the masks without image. `images` and `masks` are files by stem.

    The name of a mask is that of its image, alone or with an underscore and more. The longest name that fits counts.
    """
    groups: dict[str, list[Path]] = {stem: [] for stem in images}
    unused: list[Path] = []
    for name, path in masks.items():
        words = name.split("_")
        prefixes = ("_".join(words[:length]) for length in range(len(words), 0, -1))
        groups.get(next((stem for stem in prefixes if stem in images), ""), unused).append(path)
    return groups, unused


def refuse_bad_masks(
    pairs: Sequence[Pair],
    framing: Framing,
    strict: bool = False,
    processes: Processes = ALONE,
    sizes: ImageSizes | None = None,
) -> None:
    """Raises UserError if masks cannot be used. The message counts them and explains the first one.

    The arguments are those of `find_problems`.
    """
    problems = zip(pairs, find_problems(pairs, framing, strict, processes, sizes), strict=True)
    bad = [(pair.mask.name, problem) for pair, problem in problems if problem]
    if bad:
        names = shortlist([name for name, _ in bad])
        raise UserError(f"{len(bad)} of {len(pairs)} masks cannot be used: {names}; first: {bad[0][1]}")


def find_problems(
    pairs: Sequence[Pair],
    framing: Framing,
    strict: bool = False,
    processes: Processes = ALONE,
    sizes: ImageSizes | None = None,
) -> list[str | None]:
    """Returns for each pair why it cannot be used, or None. Reads the size of each image, and each whole mask.

    Each process reads its share of the files, and all processes return the same. Raises UserError if the mask threshold
    makes all pixels of all masks foreground.

    Args:
        pairs: each image comes once for each of its masks.
        strict: refuse masks with soft edges, as the test does.
        sizes: those of the images, from `measure_sizes`. None: read them.
    """
    image_sizes = measure_sizes(pairs, processes) if sizes is None else sizes

    def check_mask(pair: Pair) -> tuple[int, ...]:
        size = image_sizes[pair.image]
        if isinstance(size, UserError):
            raise size
        width, height = size[1::-1] if size[2] else size[:2]
        _, mask = framing.label(pair.mask, Frame(height, width, framing.size), strict)
        return (int(mask.all()),)

    def identify(pair: Pair) -> tuple[Source, object]:
        return pair.mask, image_sizes[pair.image]

    problems: list[str | None] = []
    extremes: dict[Source, tuple[int, int]] = {}  # usable mask -> is every pixel foreground? is any?
    results = check_sources(check_mask, pairs, processes, ("label", framing, strict), identify)
    for pair, result in zip(pairs, results, strict=True):
        problems.append(str(result) if isinstance(result, UserError) else None)
        if framing.mask_threshold is not None and not isinstance(result, UserError):
            extremes[pair.mask] = result[0], 1
    if framing.mask_threshold is not None and extremes:
        refuse_constant({path: extremes[path] for path in sorted(extremes, key=find_file)}, framing.mask_threshold)
    return problems


def find_repeated(hashes: ndarray) -> ndarray:
    """Returns for each value whether it occurs more than once, bool (N,)."""
    first = find_positions(hashes, hashes)
    return np.bincount(first, minlength=len(first))[first] > 1


def make_unique_names(masks: Sequence[Source]) -> Sequence[str]:
    """Returns the name of each mask in files of prompts: its file name, or its path if two masks have the file name."""
    is_repeated = find_repeated(hash_all(mask.name for mask in masks))

    def read_name(index: int) -> str:
        mask = masks[index]
        return find_file(mask).as_posix() if is_repeated[index] else mask.name

    return Mapped(read_name, range(len(masks)))


def write_entries(path: Path, entries: Iterable[tuple[str, object]]) -> None:
    """Writes the text of `json.dumps(dict(entries), indent=2)`. The entries are not all in memory."""
    start = "{\n  "
    with write_atomic(path) as file:
        for name, value in entries:
            text = json.dumps(value, indent=2).replace("\n", "\n  ")
            file.write(f"{start}{json.dumps(name)}: {text}".encode())
            start = ",\n  "
        file.write(b"{}" if start.startswith("{") else b"\n}")


def read_prompts(path: Path, names: Sequence[str]) -> list[BoxAndPoints]:
    """Reads the prompts of the masks with these names. All must have the same number of points.

    Released files with several points per mask have one more level of lists. This function reads both forms.
    """
    entries = read_object(path, "sam2unet test writes such files")
    if missing := [name for name in names if name not in entries]:
        raise UserError(f"{path} has no prompts for {len(missing)} of {len(names)} masks: {shortlist(missing)}")
    prompts = [parse_prompts(path, name, entries[name]) for name in names]
    if len(counts := sorted({entry.points.labels.shape[1] for entry in prompts})) > 1:
        raise UserError(
            f"{path} has different numbers of points: {shortlist(counts)}; all masks must have the same number"
        )
    return prompts


def parse_prompts(path: Path, name: str, entry: Any) -> BoxAndPoints:
    """Converts one entry of a file of prompts. `path` and `name` are for the message of a UserError."""
    try:
        boxes, coords = (torch.tensor(entry[key], dtype=torch.float32) for key in ("boxes", "point_coords"))
        labels = torch.tensor(entry["point_labels"], dtype=torch.float64).reshape(1, -1)
        prompts = BoxAndPoints(boxes.reshape(1, 4), Points(coords.reshape(1, labels.shape[1], 2), labels.long()))
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a shape does not fit
        raise UserError(
            f"{path}: the entry {name} must have boxes with 4 numbers, point_coords with 2 numbers per point, "
            "and one point_label per point"
        ) from None
    if not (boxes.isfinite().all() and coords.isfinite().all() and torch.isin(labels, torch.tensor([-1, 0, 1])).all()):
        raise UserError(f"{path}: the entry {name} has a coordinate that is not finite, or a label other than 1, 0, -1")
    return prompts


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Reads a JSON file that contains an object with at least one entry. `advice` says where such a file comes from."""
    if not path.exists():
        raise UserError(f"no such file: {path}; {advice}")
    entries = read_json(path)
    if not entries:
        raise UserError(f"{path} is empty; it must have at least one entry")
    return entries


def is_list_of_paths(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_sources_exist(path: Path, kind: str, files: Sequence[Source]) -> None:
    """Raises UserError if a file does not exist. `path` is the list that names the files, `kind` says what they are."""
    if missing := [file for file in files if not os.path.isfile(file)]:  # is False for impossible names, too
        raise UserError(
            f"{path}: {len(missing)} of {len(files)} {kind} do not exist: {shortlist(missing)} "
            f"(relative paths start at the working folder, {Path.cwd()})"
        )
