"""COCO: one JSON file with images, categories and annotations. Masks are polygons or run lengths (RLE)."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..atomic import read_json, write_atomic
from ..errors import UserError
from .conversion import Conversion, base_name, explain_malformed, parse_score
from .outlines import close_parts
from .record import AnnotatedImage, Region, crop_region, place_region
from .runs import count_runs, expand_runs, parse_coco_counts
from .tracing import Parts

COCO_FILE = "annotations.json"


def read_coco(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    path = source / COCO_FILE if source.is_dir() else source
    content = read_json(path, "give the COCO file with images, categories and annotations")
    with explain_malformed(path, "a COCO file"):
        categories = {key: str(row["name"]) for key, row in index_rows(content["categories"], "name", path).items()}
        images = index_rows(content["images"], "file_name", path)
        groups: dict[object, list[dict]] = defaultdict(list)
        for entry in content["annotations"]:
            groups[entry["image_id"]].append(entry)
    conversion.names.declare(categories.values())
    for number in (number for number in groups if number not in images):
        conversion.problems.add("values of image_id belong to no image; their objects are left out", number)
    for number, row in images.items():
        with explain_malformed(path, "a COCO file"):
            item = parse_coco_image(row, groups.get(number, []), categories, conversion)
        yield item


def index_rows(rows: list[dict], name: str, path: Path) -> dict[object, dict]:
    """Returns the rows by their id. Raises UserError if two of them have one id and different names."""
    table: dict[object, dict] = {}
    for row in rows:
        if (first := table.setdefault(row["id"], row)[name]) != row[name]:
            raise UserError(f"{path}: {first} and {row[name]} have the same id, {row['id']}; give each its own id")
    return table


def parse_coco_image(
    row: dict, entries: list[dict], categories: dict[object, str], conversion: Conversion
) -> AnnotatedImage:
    """Converts an image and its annotations. Crowds come first, behind the single objects."""
    file_name, regions = base_name(row["file_name"]), []
    size = conversion.find_size(file_name, row.get("height"), row.get("width"))
    for entry in sorted(entries, key=lambda entry: not entry.get("iscrowd", 0)):
        if entry["category_id"] not in categories:
            conversion.problems.add("objects have an unknown category_id and are left out", entry["category_id"])
            continue
        values = {"crowd": bool(entry.get("iscrowd", 0)), "score": parse_score(entry.get("score"))}
        region = parse_segmentation(entry, categories[entry["category_id"]], size, values, conversion, file_name)
        regions += [region] if region else []
    return AnnotatedImage(file_name, size, regions)


def parse_segmentation(
    entry: dict, name: str, size: tuple[int, int], values: dict, conversion: Conversion, file_name: str
) -> Region | None:
    shape = entry.get("segmentation")
    if not shape:
        conversion.problems.add("objects have no mask (only a box, for example) and are left out", file_name)
        return None
    if isinstance(shape, list):
        return conversion.fill(name, shape, size, file_name, **values)
    if tuple(shape["size"]) != size:
        conversion.problems.add("objects have an RLE of another size than the image and are left out", file_name)
        return None
    try:
        counts = parse_coco_counts(shape["counts"]) if isinstance(shape["counts"], str) else shape["counts"]
        mask = expand_runs(counts, size[0] * size[1]).reshape(size[::-1]).T
    except ValueError:
        conversion.problems.add("objects have a damaged RLE and are left out", file_name)
        return None
    return crop_region(name, np.ascontiguousarray(mask), **values)


def write_coco(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes `annotations.json`, object by object. `categories` are the classes without the background, from 1."""
    images, number = [], 0
    with write_atomic(folder / COCO_FILE) as file:
        file.write(b'{"annotations": [')
        for image_id, item in enumerate(items, 1):
            height, width = item.known_size
            images.append({"id": image_id, "file_name": item.file_name, "height": height, "width": width})
            for region, parts in zip(item.regions, conversion.trace(item), strict=True):
                number += 1
                head = {"id": number, "image_id": image_id, "category_id": conversion.names.find(region.name)}
                text = json.dumps(head | make_coco_object(region, parts, item.known_size, conversion.options.shapes))
                file.write(f"{',' if number > 1 else ''}\n{text}".encode())
        categories = [{"id": conversion.names.find(name), "name": name} for name in conversion.names.labels]
        tables: dict[str, list[dict]] = {"images": images, "categories": categories}
        for key, rows in tables.items():
            file.write(f'\n], "{key}": [\n'.encode() + ",\n".join(json.dumps(row) for row in rows).encode())
        file.write(b'\n], "info": {"description": "written by sam2unet"}, "licenses": []}\n')


def make_coco_object(region: Region, parts: Parts, size: tuple[int, int], shapes: str) -> dict[str, object]:
    """Returns the fields of an annotation, except the ids. `area` counts pixels; `bbox` is x, y, width, height."""
    shape: Any
    if shapes == "polygons":
        shape = [[value for point in polygon for value in point] for polygon in close_parts(parts)]
    elif shapes == "masks":
        shape = coco_mask.encode(np.asfortranarray(place_region(region, size).view(np.uint8)))
        shape = {"size": list(size), "counts": shape["counts"].decode()}
    else:
        shape = {"size": list(size), "counts": count_runs(place_region(region, size).T.ravel())}
    height, width = region.pixels.shape
    box = [region.left, region.top, width, height]
    fields = {"iscrowd": int(region.crowd), "bbox": box, "area": int(region.pixels.sum()), "segmentation": shape}
    return fields | ({} if region.score is None else {"score": region.score})
