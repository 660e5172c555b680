"""Results of test.py: folders of maps, and the masks that SAM-Med2D predicts for prompts."""

import csv
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..atomic import read_text
from ..classes import Classes
from ..data.images.masks import FOREGROUND, has_palette, read_indices, read_mask
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
    return (read_map_objects(path, conversion) for path in list_images(source).values())


def read_map_objects(path: Path, conversion: Conversion) -> AnnotatedImage:
    """Reads a map. The score of an object is the mean probability of its pixels.

    Probabilities are in `prob/STEM.npz`, which `test.py --save_prob` writes. Without this file, the score is the mean
    grey level, which test.py stretches; a map of classes, or of 0 and 255 alone, then has no scores.
    """
    options, classes = conversion.options, conversion.names.classes
    if classes:
        indices = read_indices(path, classes)
        probability = read_probability(path, (len(classes.items), *indices.shape), conversion)
        regions = split_indices(indices, classes, options.split_regions)
        return AnnotatedImage(path.name, indices.shape, score_regions(regions, probability, classes))
    with open_image(path) as image:
        if has_palette(image):
            raise UserError(f"{path} is a map of several classes; give the file of the classes, --classes")
        levels = np.asarray(image.convert("L")) / 255
    probability = read_probability(path, levels.shape, conversion)
    mask = (levels if probability is None else probability) > options.threshold
    if probability is None and not np.isin(levels, (0, 1)).all():
        probability = levels
    regions = split_parts(options.class_name, mask, options.split_regions)
    return AnnotatedImage(path.name, mask.shape, score_regions(regions, probability))


def read_probability(map_path: Path, shape: tuple[int, ...], conversion: Conversion) -> np.ndarray | None:
    """Returns the probabilities of a map, which have this shape, (H, W) or (C, H, W), or None if there is no file."""
    path = map_path.parent / "prob" / f"{map_path.stem}.npz"
    if not path.is_file():
        conversion.problems.add("maps have no probabilities; scores come from grey levels, if there are any", path.stem)
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            probability = content["probability"].astype(np.float32)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as e:
        raise UserError(f"cannot read {path}: {e}; run test.py --save_prob again") from e
    if probability.shape != shape:
        texts = ["x".join(map(str, part)) for part in (probability.shape, shape)]
        raise UserError(f"{path} has {texts[0]} numbers, but {map_path.name} needs {texts[1]}; run test.py again")
    return probability


def score_regions(
    regions: list[Region], probability: np.ndarray | None, classes: Classes | None = None
) -> list[Region]:
    """Adds the mean probability inside each region, if it is known. With classes, it is that of the region's class."""
    if probability is None:
        return regions
    scored = []
    for region in regions:
        values = probability[classes.names.index(region.name)] if classes else probability
        mean = float(values[slice_region(region)][region.pixels].mean(dtype=float))
        scored.append(region._replace(score=round(min(max(mean, 0.0), 1.0), 6)))
    return scored


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
