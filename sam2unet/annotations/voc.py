"""Pascal VOC: PNGs with a palette. `SegmentationClass` has classes, `SegmentationObject` has the numbers of objects."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..atomic import read_text
from ..classes import IGNORED, Classes
from ..data.images.masks import has_palette, read_indices
from ..data.images.pictures import write_bytes
from ..data.images.reading import open_image
from ..data.pairs import list_images
from ..errors import UserError
from .conversion import IGNORE_NAME, Conversion, explain_malformed
from .masks import paint_indices, split_indices, write_palette_png
from .record import AnnotatedImage, Region, crop_region
from .tracing import paint_numbers

CLASS_FOLDER, OBJECT_FOLDER, LABEL_FILE = "SegmentationClass", "SegmentationObject", "labelmap.txt"
LIST_FILE = "ImageSets/Segmentation/default.txt"
VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
VOID = "ignored"  # the name of the value 255 in `labelmap.txt`


def read_voc(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads both folders. Without `SegmentationObject`, connected regions of a class are objects."""
    folder = source / CLASS_FOLDER
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give the folder that holds {CLASS_FOLDER}")
    paths = list_images(folder)
    with open_image(next(iter(paths.values()))) as image:
        classes = read_label_map(source / LABEL_FILE, conversion.names.classes, has_palette(image))
    conversion.names.declare(classes.names[1:])
    for stem, path in paths.items():
        indices = read_indices(path, classes)
        numbers = read_object_numbers(source / OBJECT_FOLDER / f"{stem}.png", indices)
        if numbers is None:
            regions = split_indices(indices, classes, conversion.options.split_regions)
        else:
            regions = split_numbers(numbers, indices, classes)
        yield AnnotatedImage(path.name, indices.shape, regions)


def split_numbers(numbers: np.ndarray, indices: np.ndarray, classes: Classes) -> list[Region]:
    """Returns a region for each number above 0. Its class is the one that most of its pixels have."""
    ignored = (indices == IGNORED) & (numbers == 0)
    regions = [crop_region(IGNORE_NAME, ignored, crowd=True)] if ignored.any() else []
    for number in np.unique(numbers[numbers > 0]):
        mask = numbers == number
        index = np.bincount(indices[mask]).argmax()
        regions.append(crop_region(IGNORE_NAME if index == IGNORED else classes.names[index], mask))
    return regions


def read_object_numbers(path: Path, indices: np.ndarray) -> np.ndarray | None:
    """Returns integers (H, W), 0 without object, or None if there is no such file."""
    if not path.is_file():
        return None
    with open_image(path) as image:
        numbers = np.array(image)
        palette = image.mode == "P"
    if numbers.ndim == 3:  # a copy whose palette became colours
        numbers = numbers[..., :3].astype(np.int32) @ (65536, 256, 1)
        numbers[numbers == 0xE0E0C0] = 0
    elif palette:
        numbers[numbers == IGNORED] = 0
    if numbers.shape != indices.shape:
        raise UserError(f"{path} has another size than the file in {CLASS_FOLDER}; export both again")
    return numbers


def read_label_map(path: Path, classes: Classes | None, has_indices: bool) -> Classes:
    """Reads lines of the form `name:red,green,blue::`. A pixel is the number of a line, or its colour.

    Without the file, the names are those of `classes`, or the 20 classes of Pascal VOC.
    """
    palette = make_voc_palette().tolist()
    rows = dict(zip(classes.names if classes else VOC_NAMES, palette, strict=False))
    if path.is_file():
        lines = [line.strip().split(":") for line in read_text(path).splitlines() if line.strip() and line[0] != "#"]
        with explain_malformed(path, "a label map"):
            colors = [
                [int(part) for part in row[1].split(",")] if row[1] else palette[i] for i, row in enumerate(lines)
            ]
            rows = {row[0]: color for row, color in zip(lines, colors, strict=True) if row[0] != VOID}
    items: list[dict[str, object]] = [{"name": name, "color": color} for name, color in rows.items()]
    if has_indices:
        items = [item | {"value": index} for index, item in enumerate(items)]
    return Classes.from_entries({"classes": items, "ignore": IGNORED if has_indices else palette[IGNORED]}, path)


def make_voc_palette() -> np.ndarray:
    """Returns the palette of Pascal VOC, uint8 (256, 3). Bits 0, 3 and 6 of an index are the high bits of red."""
    index, colors = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> 3 * bit + channel & 1) << 7 - bit).astype(np.uint8)
    return colors


def write_voc(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes both folders, `labelmap.txt` and the list of the images. A pixel is the index of its class."""
    stems, palette = [], make_voc_palette()
    for item in items:
        stems.append(stem := Path(item.file_name).stem)
        write_palette_png(folder / CLASS_FOLDER / f"{stem}.png", paint_indices(item, conversion), palette)
        objects = [region for region in item.regions if region.name != IGNORE_NAME]
        if len(objects) < IGNORED:
            write_palette_png(
                folder / OBJECT_FOLDER / f"{stem}.png",
                paint_numbers([region.pixels for region in objects], objects, item.known_size).astype(np.uint8),
                palette,
            )
        else:
            conversion.problems.add(f"images have more than {IGNORED - 1} objects and no {OBJECT_FOLDER}", stem)
    names, colors = conversion.names.to_classes().names, palette.tolist()
    for name in (name for name in names if ":" in name):
        conversion.problems.add(f"classes have a colon, which becomes a space in {LABEL_FILE}", name)
    rows = [*zip(names, colors, strict=False), (VOID, colors[IGNORED])]
    lines = [
        "# label:color_rgb:parts:actions",
        *(f"{name.replace(':', ' ')}:{','.join(map(str, color))}::" for name, color in rows),
    ]
    write_bytes(folder / LABEL_FILE, os.fsencode("\n".join([*lines, ""])))
    write_bytes(folder / LIST_FILE, os.fsencode("\n".join([*stems, ""])))
