"""labelme: a JSON file for each image, beside the image."""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import read_json, write_atomic
from ..data.images.pictures import encode_png
from .conversion import Conversion, base_name, explain_malformed, list_sources, parse_score
from .outlines import close_parts
from .record import AnnotatedImage, Region, crop_region
from .tracing import Parts

VERSION = "5.5.0"  # the oldest version of labelme that reads all that is written here
# Shape -> least points. `rotation` is a rectangle of X-AnyLabeling, whose files have the same form.
CORNERS = {"rectangle": 2, "circle": 2, "mask": 2, "polygon": 3, "oriented_rectangle": 4, "rotation": 4}


def read_labelme(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    for path in list_sources(source, ".json"):
        content = read_json(path, "give a folder with labelme files only")
        with explain_malformed(path, "a labelme file"):
            item = parse_labelme(content, conversion)
        yield item


def parse_labelme(content: dict, conversion: Conversion) -> AnnotatedImage:
    """Converts a file. Polygons and other outlines with the same label and `group_id` are the parts of one object."""
    file_name = base_name(content["imagePath"])
    size = conversion.find_size(file_name, content.get("imageHeight"), content.get("imageWidth"))
    groups: dict[tuple[str, object], list[dict]] = {}
    for number, shape in enumerate(content["shapes"]):
        if len(shape["points"]) < CORNERS.get(shape.get("shape_type") or "polygon", 10**9):
            conversion.problems.add("shapes are lines or points and are left out", file_name)
            continue
        group = shape.get("group_id") if shape.get("shape_type") != "mask" else None  # a mask is a whole object
        groups.setdefault((str(shape["label"]), number if group is None else f"group {group}"), []).append(shape)
    regions = []
    for (label, _), shapes in groups.items():
        score = parse_score(shapes[0].get("score"))
        if shapes[0].get("shape_type") == "mask":
            regions.append(parse_labelme_mask(label, shapes[0], size, score))
        else:
            polygons = [to_polygon(shape.get("shape_type"), shape["points"]) for shape in shapes]
            regions.append(conversion.fill(label, polygons, size, file_name, score=score))
    return AnnotatedImage(file_name, size, regions)


def parse_labelme_mask(label: str, shape: dict, size: tuple[int, int], score: float | None) -> Region:
    """Converts a shape with a PNG of its bounding box."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as image:
            mask = np.array(image.convert("L")) > 0
    except (OSError, SyntaxError, Image.DecompressionBombError) as e:  # what Pillow raises for damaged files
        raise ValueError("a mask is not a PNG") from e
    left, top = (int(value) for value in shape["points"][0])
    if min(left, top) < 0:
        raise ValueError("a mask starts outside the image")
    inside = mask[: max(0, size[0] - top), : max(0, size[1] - left)]
    return crop_region(label, inside, (top, left), score=score)


def to_polygon(kind: str | None, points: list) -> list:
    """Returns the corners of a shape. A circle is given by its centre and a point on it.

    A rectangle has two opposite corners in labelme, and four corners in X-AnyLabeling.
    """
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if kind == "circle":
        (x, y), end = points
        radius, angles = np.hypot(end[0] - x, end[1] - y), np.linspace(0, 2 * np.pi, 73)[:-1]
        return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).tolist()
    return points


def write_labelme(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes STEM.json for each image. `imagePath` leads from the file to the image."""
    for item in items:
        stem = Path(item.file_name).stem
        image = conversion.images.get(stem)
        place = Path(os.path.relpath(image, folder)).as_posix() if image else item.file_name
        numbered = enumerate(zip(item.regions, conversion.trace(item), strict=True))
        shapes = [shape for number, (region, parts) in numbered for shape in make_shapes(region, parts, number)]
        content: dict[str, object] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": place,
            "imageData": None,
        }
        content |= {"imageHeight": item.known_size[0], "imageWidth": item.known_size[1]}
        with write_atomic(folder / f"{stem}.json") as file:
            file.write(json.dumps(content, indent=1).encode())


def make_shapes(region: Region, parts: Parts, number: int) -> list[dict[str, object]]:
    """Returns a polygon for each part, or one mask. Several parts share the `group_id` `number`."""
    head: dict[str, object] = {"label": region.name, "flags": {}, "description": "", "group_id": None}
    head |= {} if region.score is None else {"score": region.score}
    if polygons := close_parts(parts):
        head["group_id"] = number if len(polygons) > 1 else None
        return [head | {"shape_type": "polygon", "points": polygon} for polygon in polygons]
    height, width = region.pixels.shape
    points = [[region.left, region.top], [region.left + width - 1, region.top + height - 1]]
    picture = base64.b64encode(encode_png(region.pixels.view(np.uint8) * 255)).decode()
    return [head | {"shape_type": "mask", "points": points, "mask": picture}]
