"""Reads which folders to score, and finds the map of each mask by its name, before any image is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..atomic import read_yaml
from ..data.packed import Packed, pack_texts
from ..data.packed_files import find_places, pack_images, pack_optional, take
from ..data.volumes.open import is_volume
from ..data.volumes.slices import Source, list_slice_pairs, list_slices
from ..errors import UserError, shortlist, warn
from ..slice_view import SliceView
from .aggregate import MethodResult, name_folders


@dataclass(frozen=True)
class Entry:
    """The maps of one method for one data set. `photographs` are for the report."""

    dataset: str
    method: str
    predictions: Path
    masks: Path
    photographs: Path | None = None
    slices: SliceView | None = None  # score each slice of a volume by itself. None: score volumes in 3D.


def read_entry_flags(
    datasets: Sequence[str],
    predictions: Sequence[Path],
    masks: Sequence[Path],
    methods: Sequence[str],
    photographs: Sequence[Path],
) -> list[Entry]:
    """Returns an entry for each data set. `methods` may be empty or one for all; `photographs` may be empty.

    Without `methods`, the methods of a data set that occurs several times have the names of their folders.
    """
    counts = {"--pred_path": len(predictions), "--gt_path": len(masks)}
    if photographs:
        counts["--image_path"] = len(photographs)
    if len(methods) > 1:
        counts["--method"] = len(methods)
    if wrong := [f"{count} {flag}" for flag, count in counts.items() if count != len(datasets)]:
        several = "; for several methods on one data set, repeat its name and masks, and name each with --method"
        raise UserError(
            f"{len(datasets)} --dataset_name, but {', '.join(wrong)}; give one each, in the same order"
            f"{several if len(predictions) > len(datasets) > 0 else ''}"
        )
    names = list(methods) * len(datasets) if len(methods) == 1 else list(methods)
    if not names:
        repeats = len(set(datasets)) < len(datasets)
        names = name_folders(datasets, predictions) if repeats else [""] * len(datasets)
    pictures: Sequence[Path | None] = photographs or [None] * len(datasets)
    return [Entry(*row) for row in zip(datasets, names, predictions, masks, pictures, strict=True)]


def read_entry_file(path: Path) -> list[Entry]:
    """Reads a YAML file, `datasets: {NAME: {masks: DIR, images: DIR, predictions: {METHOD: DIR}}}`.

    Folders are relative to the folder of the file. `images` is for the report and may be left out.
    """
    datasets = read_yaml(path).get("datasets")
    if not isinstance(datasets, dict) or not datasets:
        raise UserError(f"{path} needs `datasets:` with a block for each data set")
    entries = []
    for name, block in datasets.items():
        required = {"masks", "predictions"}
        if not isinstance(block, dict) or not required <= set(block) <= required | {"images"}:
            raise UserError(f"{path}: {name} needs masks and predictions, may have images, and nothing else")
        methods = block["predictions"]
        methods = methods if isinstance(methods, dict) else {"": methods}
        if not methods:
            raise UserError(f"{path}: predictions of {name} names no method; give one folder for each method")
        folders = [block["masks"], block.get("images") or "", *methods.values()]
        if not all(isinstance(folder, str) for folder in folders):
            raise UserError(f"{path}: masks, images and predictions of {name} must be names of folders")
        masks, images = path.parent / block["masks"], block.get("images")
        for method, folder in methods.items():
            photographs = path.parent / images if images else None
            entries.append(Entry(str(name), str(method), path.parent / folder, masks, photographs))
    return entries


def match_predictions(entry: Entry, missing: str) -> MethodResult:
    """Returns the map of each mask, by stem, without opening a file. The lists of the result are packed."""
    if entry.predictions.resolve() == entry.masks.resolve():
        raise UserError(f"--pred_path and --gt_path are the same folder: {entry.masks}")
    (names, masks), (map_names, maps) = (pack_images(folder, True) for folder in (entry.masks, entry.predictions))
    places = find_places(names, map_names)
    warn_lonely(entry, masks, np.flatnonzero(places < 0), missing)
    if missing == "skip" and (places < 0).any():
        kept = np.flatnonzero(places >= 0)
        names, masks, places = take(names, kept), take(masks, kept), places[kept]
    if not len(masks):
        raise UserError(f"no prediction in {entry.predictions} has the name of a mask in {entry.masks}")
    spare = np.ones(len(maps), bool)
    spare[places[places >= 0]] = False
    if count := int(spare.sum()):
        first = shortlist([maps[int(i)].name for i in np.flatnonzero(spare)[:5]], count=count)
        warn(f"{count} predictions have no mask in {entry.masks} and are left out: {first}")
    photographs: Sequence[Source | None] = [None] * len(masks)
    if entry.photographs:
        photograph_names, files = pack_images(entry.photographs)
        chosen = take(files, find_places(names, photograph_names))
        photographs = chosen
    lists = names, take(maps, places), masks, photographs
    return MethodResult(entry.dataset, entry.method, *(cut_rows(lists, entry.slices) if entry.slices else lists))


def warn_lonely(entry: Entry, masks: Packed[Source], lonely: np.ndarray, missing: str) -> None:
    """Warns about masks without prediction, whose places are `lonely`. Raises UserError if `missing` is `error`."""
    if not len(lonely):
        return
    first = shortlist([masks[int(i)].name for i in lonely[:5]], count=len(lonely))
    text = f"{len(lonely)} of {len(masks)} masks have no prediction: {first}"
    if missing == "error":
        where = f"predictions looked for in {entry.predictions}"
        raise UserError(f"{text} ({where}; --missing zero or skip goes on without)")
    warn(f"{text}; {'scored as black maps' if missing == 'zero' else 'left out'}")


def cut_rows(lists: tuple, view: SliceView) -> tuple:
    """Returns packed names, maps, masks and photographs, with a row for each slice of a volume."""
    rows = [part for row in zip(*lists, strict=True) for part in cut_row(row, view)]
    names, maps, masks, photographs = zip(*rows, strict=True)
    return pack_texts(names), pack_optional(maps), pack_optional(masks), pack_optional(photographs)


def cut_row(row: tuple[str, Path | None, Path, Path | None], view: SliceView) -> list[tuple]:
    """Returns a name, map, mask and photograph for each slice of a volume; for images the row itself."""
    _, prediction, mask, _ = row
    if not is_volume(mask):
        return [row]
    if prediction is None:
        return [(part.stem, None, part, None) for part in list_slices(mask, view)]
    return [(part.stem, map_, part, None) for map_, part in list_slice_pairs(prediction, mask, view)]
