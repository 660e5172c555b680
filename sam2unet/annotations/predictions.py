"""Results of test.py: folders of maps, and the masks that SAM-Med2D predicts for prompts."""

import csv
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..atomic import read_text
from ..classes import Classes
from ..data.images.masks import FOREGROUND, read_indices, read_mask
from ..data.images.reading import open_image
from ..data.pairs import Pair, list_images
from ..data.volumes.slices import Source
from ..errors import UserError
from ..prompts.files.results import list_mask_paths
from ..prompts.modes import PromptMode
from .conversion import Conversion, explain_malformed
from .masks import parse_class_name, split_indices
from .record import AnnotatedImage, Region, crop_region, slice_region, split_parts

PER_MASK = "per_mask.csv"


def read_predictions(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads a folder of maps, or a folder of masks beside `per_mask.csv`. The objects have scores."""
    if (source.parent / PER_MASK).is_file():
        return read_answers(source, conversion)
    return (read_map_objects(stem, path, conversion) for stem, path in list_images(source).items())


def read_map_objects(stem: str, path: Path, conversion: Conversion) -> AnnotatedImage:
    """Reads a map. The score of an object is the mean probability of its pixels.

    Probabilities are in `prob/STEM.npz`, which `test.py --save_prob` writes. Without this file, the score is the mean
    grey level, which test.py stretches; a map of classes, or of 0 and 255 alone, then has no scores.
    """
    options, classes = conversion.options, conversion.names.classes
    probability = read_probability(path.parent / "prob" / f"{stem}.npz", stem, conversion)
    if classes:
        indices = read_indices(path, classes)
        return score_regions(
            stem, split_indices(indices, classes, options.split_regions), indices.shape, probability, classes
        )
    if probability is None:
        with open_image(path) as image:
            grey = np.asarray(image.convert("L"))
        is_binary = np.isin(grey, (0, 255)).all()
        mask, probability = grey / 255 > options.threshold, None if is_binary else grey / 255
    else:
        mask = probability > options.threshold
    regions = split_parts(options.class_name, mask, options.split_regions)
    return score_regions(stem, regions, mask.shape, probability)


def read_probability(path: Path, stem: str, conversion: Conversion) -> np.ndarray | None:
    """Returns (H, W) or (C, H, W), or None if there is no such file."""
    if not path.is_file():
        conversion.problems.add("maps have no probabilities; scores come from grey levels, if there are any", stem)
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["probability"].astype(np.float32)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as e:
        raise UserError(f"cannot read {path}: {e}; run test.py --save_prob again") from e


def score_regions(
    stem: str,
    regions: list[Region],
    size: tuple[int, int],
    probability: np.ndarray | None,
    classes: Classes | None = None,
) -> AnnotatedImage:
    """Adds the mean probability inside each region. With classes, that of the region's class."""
    if probability is None:
        return AnnotatedImage(f"{stem}.jpg", size, regions)
    if probability.shape[-2:] != size or probability.ndim != (3 if classes else 2):
        raise UserError(f"the map and the probabilities of {stem} have different sizes; run test.py again")
    regions, unscored = [], regions
    for region in unscored:
        values = probability[classes.names.index(region.name)] if classes else probability
        mean = float(values[slice_region(region)][region.pixels].mean(dtype=float))
        regions.append(region._replace(score=round(min(max(mean, 0.0), 1.0), 6)))
    return AnnotatedImage(f"{stem}.jpg", size, regions)


def read_answers(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads the masks that SAM-Med2D predicted. The score is the IoU that the model expects (`quality`)."""
    table = source.parent / PER_MASK
    with explain_malformed(table, "a table of test.py"):
        rows = [(parse_mode(row["prompt"]), row) for row in csv.DictReader(read_text(table).splitlines())]
        rows = [(mode, row) for mode, row in rows if mode.folder == source.name]
        pairs = [Pair(Path(row["image"].lstrip("'")), Path(row["mask"].lstrip("'"))) for _, row in rows]
        scores = [min(max(float(row["quality"]), 0.0), 1.0) for _, row in rows]
    if not rows:
        raise UserError(f"{table} has no prompt whose masks are in {source.name}; give a folder of test.py --save_pred")
    mode = rows[0][0]
    paths = list_mask_paths(pairs, [mode], source.parent)
    groups: dict[Source, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.image, []).append(index)
    for image, indices in groups.items():
        regions, size = [], None
        for index in indices:
            mask = np.asarray(read_mask(paths[mode, index])) > FOREGROUND
            name = parse_class_name(pairs[index].mask.stem, image.stem, conversion.options.class_name)
            regions.append(crop_region(name, mask, score=scores[index]))
            size = mask.shape
        yield AnnotatedImage(image.name, size, regions)


def parse_mode(title: str) -> PromptMode:
    """Returns the mode of a title such as `box`, `3 pts` or `8 clicks`."""
    if title == "box":
        return PromptMode(box=True)
    count, unit = title.split()
    return PromptMode(rounds=int(count)) if unit == "clicks" else PromptMode(points=int(count))
