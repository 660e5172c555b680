"""Masks of this project: binary masks, masks with a value for each class, and one mask for each object."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from PIL import Image

from ..classes import IGNORED, Classes
from ..data.images.class_pictures import find_foreground_classes
from ..data.images.masks import FOREGROUND, read_indices, read_mask
from ..data.images.pictures import encode_image, encode_png, write_bytes
from ..data.pairs import Pair, list_images
from ..errors import UserError
from ..prompts.lists import ImageMasks, group_masks, write_test_list, write_train_list
from .conversion import IGNORE_NAME, Conversion
from .record import AnnotatedImage, Region, crop_region, place_region, slice_region, split_parts

MASK_FOLDER, CLASSES_FILE = "masks", "classes.yaml"


def read_binary_masks(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    options = conversion.options
    for path in list_images(source).values():
        mask = np.asarray(read_mask(path, options.rule)) > FOREGROUND
        yield AnnotatedImage(path.name, mask.shape, split_parts(options.class_name, mask, options.split_regions))


def read_index_masks(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    classes = conversion.names.classes
    if classes is None:
        raise UserError("masks with a value for each class need --classes FILE; sam2unet check can write it")
    for path in list_images(source).values():
        indices = read_indices(path, classes)
        regions = split_indices(indices, classes, conversion.options.split_regions)
        yield AnnotatedImage(path.name, indices.shape, regions)


def split_indices(indices: np.ndarray, classes: Classes, connected: bool) -> list[Region]:
    """Returns the regions of all classes except the background. Ignored pixels are one region, a crowd, and come first.

    Then come the other regions, large ones first, so that simplified polygons do not cover small ones.
    """
    regions = []
    for index in find_foreground_classes(indices):
        regions += split_parts(classes.names[index], indices == index, connected)
    regions.sort(key=lambda region: -region.pixels.sum())
    ignored = indices == IGNORED
    return [crop_region(IGNORE_NAME, ignored, crowd=True), *regions] if ignored.any() else regions


def read_object_masks(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads one mask for each object. The name of a mask is that of its image, then `_CLASS` or `_NUMBER` or both."""
    masks, unused = group_masks(conversion.images, list_images(source))
    for path in unused:
        conversion.problems.add("masks belong to no image in --images and are left out", path.name)
    for stem, paths in masks.items():
        regions, size = [], None
        for path in paths:
            mask = np.asarray(read_mask(path, conversion.options.rule)) > FOREGROUND
            if size not in (None, mask.shape):
                raise UserError(f"{path} has another size than the other masks of {stem}; replace it")
            size = mask.shape
            regions.append(crop_region(parse_class_name(path.stem, stem, conversion.options.class_name), mask))
        yield AnnotatedImage(conversion.images[stem].name, size, regions)


def parse_class_name(mask_stem: str, image_stem: str, default: str) -> str:
    """Returns the class in the name of a mask: `liver` for ct_07_liver_001 of the image ct_07, or `default`."""
    text = re.sub(r"_\d+$", "", mask_stem.removeprefix(image_stem)).strip("_")
    return unquote(text, errors="surrogateescape") or default


def write_binary_masks(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes a 0/255 mask of all objects for each image."""
    names: set[str] = set()
    for item in items:
        mask = np.zeros(item.known_size, np.uint8)
        for region in item.regions:
            if region.name == IGNORE_NAME:
                conversion.problems.add("images have pixels to ignore, which become background", item.file_name)
                continue
            mask[slice_region(region)][region.pixels] = 255
            names.add(region.name)
        write_bytes(folder / MASK_FOLDER / f"{Path(item.file_name).stem}.png", encode_png(mask))
    for name in sorted(names) if len(names) > 1 else []:
        conversion.problems.add("classes become the same foreground", name)


def write_index_masks(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes a mask with the value, or the colour, of each pixel's class for each image, and `classes.yaml`."""
    classes = conversion.names.classes or Classes(Classes.number(IGNORED).items, (IGNORED,))
    codes, palette = np.zeros(256, np.int32), np.zeros((256, 3), np.uint8)
    codes[: len(classes.items)] = classes.codes
    codes[IGNORED] = classes.ignore[0] if classes.ignore else classes.codes[0]
    for item in items:
        path = folder / MASK_FOLDER / f"{Path(item.file_name).stem}.png"
        values = codes[paint_indices(item, conversion)]
        if not classes.has_values:
            write_bytes(
                path, encode_png(np.stack([values >> 16, values >> 8 & 255, values & 255], -1).astype(np.uint8))
            )
        elif codes.max() < 256:
            palette[classes.codes] = classes.palette[: len(classes.items)]
            write_palette_png(path, values.astype(np.uint8), palette)
        else:
            write_bytes(path, encode_image(values.astype(np.uint16), ".png", []))
    write_bytes(folder / CLASSES_FILE, conversion.names.to_classes().to_yaml().encode())


def write_palette_png(path: Path, pixels: np.ndarray, palette: np.ndarray) -> None:
    """Writes uint8 (H, W) with the colours `palette`, uint8 (256, 3)."""
    image, file = Image.fromarray(pixels), BytesIO()
    image.putpalette(palette.tobytes())
    image.save(file, "PNG")
    write_bytes(path, file.getvalue())


def paint_indices(item: AnnotatedImage, conversion: Conversion) -> np.ndarray:
    """Returns uint8 (H, W), the index of each pixel's class. Later objects cover earlier ones."""
    indices, total = np.zeros(item.known_size, np.uint8), 0
    for region in item.regions:
        indices[slice_region(region)][region.pixels] = conversion.names.index(region.name)
        total += int(region.pixels.sum())
    if total > np.count_nonzero(indices):
        conversion.problems.add("images have objects that overlap; the later object covers the earlier", item.file_name)
    return indices


def write_object_masks(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes a mask for each object, and the list of SAM-Med2D.

    Crowds, regions to ignore and images without objects are left out.
    """
    entries: list[ImageMasks] = []
    for item in items:
        stem, paths = Path(item.file_name).stem, []
        counts: defaultdict[str, int] = defaultdict(int)
        for region in item.regions:
            if region.crowd or region.name == IGNORE_NAME:
                text = "crowds and regions to ignore are no single objects and are left out"
                conversion.problems.add(text, item.file_name)
                continue
            name = f"{stem}_{quote(os.fsencode(region.name), safe=' ')}_{counts[region.name]:03d}.png"
            if len(os.fsencode(name)) > 255:
                raise UserError(f"the name {name} is too long for a file; shorten the name of the image or the class")
            counts[region.name] += 1
            paths.append(folder / MASK_FOLDER / name)
            write_bytes(paths[-1], encode_png(place_region(region, item.known_size).view(np.uint8) * 255))
        if paths:
            entries.append(ImageMasks(conversion.images[stem], tuple(paths)))
    if not entries:
        raise UserError("no list was written, because there is no object")
    if conversion.options.part == "train":
        write_train_list(folder, entries)
    else:
        write_test_list(folder, [Pair(image, mask) for image, masks in entries for mask in masks])
