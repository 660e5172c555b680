"""The table of formats, and the conversion from one to another."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..atomic import MARKER, claim_folder
from ..errors import UserError, print_line, shortlist
from .coco import read_coco, write_coco
from .conversion import Conversion, read_image_size
from .cvat import read_cvat, write_cvat
from .isat import read_isat, write_isat
from .label_studio import read_label_studio, write_label_studio
from .labelme import read_labelme, write_labelme
from .masks import (
    read_binary_masks,
    read_index_masks,
    read_object_masks,
    write_binary_masks,
    write_index_masks,
    write_object_masks,
)
from .predictions import read_predictions
from .record import AnnotatedImage, Region
from .voc import read_voc, write_voc
from .yolo import read_yolo, write_yolo

Reader = Callable[[Path, Conversion], Iterator[AnnotatedImage]]
Writer = Callable[[Path, Iterable[AnnotatedImage], Conversion], None]
ENDINGS = (".json", ".png", ".txt", ".xml", ".yaml")  # of the files that the writers make


class Format(NamedTuple):
    title: str
    read: Reader
    write: Writer | None  # None: can only be read
    needs_images: bool  # the annotations have no names or sizes of images
    shapes: tuple[str, ...] = ()  # the forms of objects that can be written


FORMATS = {
    "masks": Format("binary masks", read_binary_masks, write_binary_masks, True),
    "classes": Format("masks with classes", read_index_masks, write_index_masks, True),
    "objects": Format("a mask for each object", read_object_masks, write_object_masks, True),
    "coco": Format("COCO", read_coco, write_coco, False, ("polygons", "masks", "uncompressed")),
    "labelme": Format("labelme", read_labelme, write_labelme, False, ("polygons", "masks")),
    "yolo": Format("YOLO segmentation", read_yolo, write_yolo, True, ("polygons",)),
    "cvat": Format("CVAT for images", read_cvat, write_cvat, False, ("polygons", "masks")),
    "label_studio": Format("Label Studio", read_label_studio, write_label_studio, False, ("polygons", "masks")),
    "voc": Format("Pascal VOC", read_voc, write_voc, True),
    "isat": Format("ISAT", read_isat, write_isat, False, ("polygons",)),
    "predictions": Format("results of test.py", read_predictions, None, True),
}


def run(source: Path, source_format: str, folder: Path, target_format: str, conversion: Conversion) -> None:
    """Converts annotations and prints the problems and a summary. Writes only into a folder that is new or its own.

    Raises UserError for wrong flags, for files that cannot be read, and if nothing could be converted.
    """
    refuse_wrong_flags(source, source_format, folder, target_format, conversion)
    items = check_images(FORMATS[source_format].read(source, conversion), conversion)
    conversion.is_prediction = source_format == "predictions"
    first = next(items, None)  # bad input ends the script before it makes a folder
    if first is None:
        conversion.problems.print()
        raise UserError(f"{source} has no image that could be converted")
    write = FORMATS[target_format].write
    assert write is not None  # the flag --to offers only formats that can be written
    claim_folder(folder, f"annotations, {target_format}")
    refuse_newer_files(folder)
    counter = ObjectCounter()
    try:
        write(folder, counter.count(itertools.chain([first], items)), conversion)
    finally:
        with suppress(OSError):
            os.utime(folder / MARKER)  # what is newer at the next call is not from here
        conversion.problems.print()
    names = len(counter.names)
    print_line(f"{counter.images} images with {counter.objects} objects of {names} classes in {folder}")


def refuse_wrong_flags(
    source: Path, source_format: str, folder: Path, target_format: str, conversion: Conversion
) -> None:
    """Raises UserError for flags that do not go together, and for a source that does not exist."""
    reader, writer = FORMATS[source_format], FORMATS[target_format]
    if reader.needs_images and not conversion.images:
        raise UserError(f"{reader.title} have no names of images or no sizes; give the folder of the images, --images")
    if writer.shapes and conversion.options.shapes not in writer.shapes:
        raise UserError(f"{writer.title} is written with --shapes {' or '.join(writer.shapes)}")
    if target_format == "objects" and not conversion.images:
        raise UserError("the list of --to objects has the paths of the images; give their folder, --images")
    if conversion.options.rule is not None and source_format not in ("masks", "objects"):
        raise UserError("--mask_threshold and --foreground are for --from masks and --from objects; leave them out")
    if not source.exists():
        raise UserError(f"no such file or folder: {source}")
    if folder.resolve() in (source.resolve(), source.resolve().parent):
        raise UserError(f"--save_path {folder} is the folder of {source}; give another folder")


def refuse_newer_files(folder: Path) -> None:
    """Raises UserError if annotations are newer than the last conversion into `folder`: a person corrected them."""
    last = os.stat(folder / MARKER).st_mtime_ns
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)
    if newer := [path.name for path in files if path.lstat().st_mtime_ns > last]:
        raise UserError(
            f"{len(newer)} of {len(files)} files in {folder} are newer than the last conversion: {shortlist(newer)}; "
            "they may have corrections, so give another --save_path"
        )


class ObjectCounter:
    """Counts what passes through."""

    def __init__(self) -> None:
        self.images = self.objects = 0
        self.names: set[str] = set()

    def count(self, items: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
        for item in tqdm(items, desc="converting", unit="img", leave=False, disable=None):
            self.images += 1
            self.objects += len(item.regions)
            self.names.update(region.name for region in item.regions)
            yield item


def check_images(items: Iterable[AnnotatedImage], conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Yields the images that can be converted, with the objects that can be. Counts the problems of the others.

    If the user gave images, the images without annotation come last, without objects.
    """
    stems: set[str] = set()
    for item in items:
        stem = Path(item.file_name).stem
        checked = check_annotation(item, stem, stems, conversion)
        stems.add(stem)
        if checked:
            regions = [r for r in checked.regions if is_usable(r, checked.file_name, conversion)]
            if regions or conversion.options.keep_empty:
                yield checked._replace(regions=regions)
    if conversion.options.keep_empty:
        for stem, path in conversion.images.items():
            if stem not in stems:
                conversion.problems.add("images have no annotation and become images without objects", path.name)
                yield AnnotatedImage(path.name, read_image_size(path), [])


def check_annotation(item: AnnotatedImage, stem: str, stems: set[str], conversion: Conversion) -> AnnotatedImage | None:
    """Returns the annotation with the name and the size of its image, or None if it cannot be used."""
    problems, path = conversion.problems, conversion.images.get(stem)
    if stem in stems:
        problems.add("images have a name that occurred before (without folder and extension) and are left out", stem)
        return None
    if conversion.images and path is None:
        problems.add("annotated images do not exist; their objects are left out", item.file_name)
        return None
    if path is None:
        if item.size is None:
            problems.add("images have no size in the annotation and are left out; give --images", item.file_name)
        return item if item.size else None
    size = read_image_size(path)
    if item.size not in (None, size):
        text = f"{path.name} is {size[1]}x{size[0]}, annotated {item.size[1]}x{item.size[0]}"
        problems.add("images have another size than their annotation and are left out", text)
        return None
    return item._replace(file_name=path.name, size=size)


def is_usable(region: Region, file_name: str, conversion: Conversion) -> bool:
    """Returns whether an object has a known class and pixels. Otherwise counts the problem."""
    index = conversion.names.find(region.name) if region.name else 0
    if not region.name:
        conversion.problems.add("objects have no class and are left out", file_name)
    elif index is None:
        conversion.problems.add("objects have a class that --classes lacks and are left out", region.name)
    elif index == 0:
        conversion.problems.add("objects are background and are left out", region.name)
    elif not region.pixels.any():
        conversion.problems.add("objects have no pixel in the image and are left out", file_name)
    return bool(index and region.pixels.any())
