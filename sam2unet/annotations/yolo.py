"""YOLO segmentation: a text file for each image, and `data.yaml` with the classes.

A line has the number of the class, from 0, and the polygon of an object: x and y as shares of the width and the height.
If the number of values is odd, the last one is a score.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import yaml

from ..atomic import make_folder, read_text, read_yaml, write_atomic
from ..data.images.pictures import write_bytes
from ..errors import UserError
from .conversion import IGNORE_NAME, Conversion, explain_malformed, list_sources, read_image_size
from .outlines import join_rings
from .record import AnnotatedImage, Region

YOLO_CLASSES = "data.yaml"


def read_yolo(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads `data.yaml`, and the text files in `labels` or in the folder itself. The images give the sizes."""
    names = read_yolo_names(source / YOLO_CLASSES)
    conversion.names.declare(names.values())
    for path in list_sources(source / "labels" if (source / "labels").is_dir() else source, ".txt"):
        if path.stem not in conversion.images:
            conversion.problems.add("annotated images do not exist; their objects are left out", path.stem)
            continue
        image, regions = conversion.images[path.stem], []
        size = read_image_size(image)
        for number, line in enumerate(read_text(path).splitlines(), 1):
            with explain_malformed(path, f"YOLO segmentation text (line {number})"):
                regions += parse_yolo_line(line.split(), names, size, image.name, conversion)
        yield AnnotatedImage(image.name, size, regions)


def read_yolo_names(path: Path) -> dict[int, str]:
    """Returns the class names by number. `names` is a list, or a mapping of numbers to names."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; it has the names of the classes, as a list under `names:`")
    with explain_malformed(path, "the description of a YOLO data set"):
        names = read_yaml(path)["names"]
        return {int(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))}


def parse_yolo_line(
    words: list[str], names: dict[int, str], size: tuple[int, int], file_name: str, conversion: Conversion
) -> list[Region]:
    if not words:
        return []
    number, values = int(float(words[0])), [float(word) for word in words[1:]]
    if len(values) < 6:
        conversion.problems.add("objects have no mask (only a box, for example) and are left out", file_name)
        return []
    if number not in names:
        conversion.problems.add("objects have a class number that data.yaml lacks and are left out", number)
        return []
    score = values.pop() if len(values) % 2 else None
    polygon = np.array(values).reshape(-1, 2) * (size[1], size[0])
    return [conversion.fill(names[number], [polygon], size, file_name, score=score)]


def write_yolo(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes `labels/STEM.txt` and `data.yaml`. All parts and holes of an object become one polygon."""
    make_folder(folder / "labels")
    for item in items:
        lines = []
        for region, parts in zip(item.regions, conversion.trace(item), strict=True):
            if region.name == IGNORE_NAME:
                conversion.problems.add("regions to ignore are left out, because YOLO has none", item.file_name)
                continue
            ring = join_rings([ring for part in parts for ring in part])
            values = (ring / item.known_size[::-1]).ravel().tolist()
            number = conversion.names.index(region.name) - 1
            lines.append(f"{number} {' '.join(f'{value:.8g}' for value in values)}\n")
        with write_atomic(folder / "labels" / f"{Path(item.file_name).stem}.txt") as file:
            file.write("".join(lines).encode())
    content = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(conversion.names.names))}
    write_bytes(folder / YOLO_CLASSES, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
