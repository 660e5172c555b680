"""ISAT: a JSON file for each image, and `isat.yaml` with the classes."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from ..atomic import read_json, read_yaml, write_atomic
from ..classes import pick_color
from ..data.images.pictures import write_bytes
from .conversion import Conversion, base_name, explain_malformed, list_sources
from .outlines import close_parts
from .record import AnnotatedImage, Region, slice_region
from .tracing import Parts

ISAT_CLASSES, ISAT_BACKGROUND = "isat.yaml", "__background__"


def read_isat(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    path = source / ISAT_CLASSES
    if path.is_file():
        with explain_malformed(path, "a list of ISAT classes"):
            conversion.names.declare(row["name"] for row in read_yaml(path)["label"])
    for path in list_sources(source, ".json"):
        content = read_json(path, "give a folder with ISAT files only")
        with explain_malformed(path, "an ISAT file"):
            item = parse_isat(content, conversion)
        yield item


def parse_isat(content: dict, conversion: Conversion) -> AnnotatedImage:
    """Converts a file. Polygons with the same category and group are the parts of one object.

    `layer` orders the objects. A polygon of the category `__background__` cuts a hole into all layers below it.
    """
    info = content["info"]
    file_name = base_name(info["name"])
    size = conversion.find_size(file_name, info.get("height"), info.get("width"))
    groups: dict[tuple[str, object, bool], list[dict]] = {}
    for number, entry in enumerate(sorted(content["objects"], key=lambda entry: float(entry.get("layer") or 0))):
        if len(entry["segmentation"]) < 3:
            conversion.problems.add("shapes are lines or points and are left out", file_name)
            continue
        group = entry.get("group") if entry["category"] != ISAT_BACKGROUND else None
        key = str(entry["category"]), f"group {group}" if group else number, bool(entry.get("iscrowd"))
        groups.setdefault(key, []).append(entry)
    regions: list[Region] = []
    for (category, _, crowd), entries in groups.items():
        polygons = [entry["segmentation"] for entry in entries]
        region = conversion.fill(category, polygons, size, file_name, crowd=crowd)
        if category == ISAT_BACKGROUND:
            cut_regions_(regions, region)
        else:
            regions.append(region)
    return AnnotatedImage(file_name, size, regions)


def cut_regions_(regions: Iterable[Region], hole: Region) -> None:
    """Removes the pixels of `hole` from all regions, in place."""
    rows, columns = slice_region(hole)
    for region in regions:
        own_rows, own_columns = slice_region(region)
        top, bottom = max(rows.start, own_rows.start), min(rows.stop, own_rows.stop)
        left, right = max(columns.start, own_columns.start), min(columns.stop, own_columns.stop)
        if top < bottom and left < right:
            cut = hole.pixels[top - hole.top : bottom - hole.top, left - hole.left : right - hole.left]
            region.pixels[top - region.top : bottom - region.top, left - region.left : right - region.left] &= ~cut


def write_isat(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes STEM.json for each image, and `isat.yaml`. Each object has a group and a layer of its own."""
    for item in items:
        stem, (height, width) = Path(item.file_name).stem, item.known_size
        image = conversion.images.get(stem)
        folder_name = str(image.parent.resolve()) if image else ""
        info: dict[str, object] = {"description": "ISAT", "folder": folder_name, "name": item.file_name}
        info |= {"width": width, "height": height, "depth": 3, "note": ""}
        numbered = enumerate(zip(item.regions, conversion.trace(item), strict=True), 1)
        objects = [entry for number, (region, parts) in numbered for entry in make_isat(region, parts, number)]
        with write_atomic(folder / f"{stem}.json") as file:
            file.write(json.dumps({"info": info, "objects": objects}, indent=1).encode())
    names = [ISAT_BACKGROUND, *conversion.names.labels]
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in map(pick_color, range(len(names)))]
    rows = [{"color": color, "name": name} for name, color in zip(names, colors, strict=True)]
    write_bytes(folder / ISAT_CLASSES, yaml.safe_dump({"label": rows}, allow_unicode=True).encode())


def make_isat(region: Region, parts: Parts, number: int) -> list[dict[str, object]]:
    """Returns an entry for each part of an object. `bbox` is x0, y0, x1, y1; `area` is that of the polygon."""
    entries = []
    for polygon in close_parts(parts):
        xs, ys = zip(*polygon, strict=True)
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(polygon))) / 2
        box = [min(xs), min(ys), max(xs), max(ys)]
        entry = {"category": region.name, "group": number, "segmentation": polygon, "area": round(area, 2)}
        entries.append(entry | {"layer": float(number), "bbox": box, "iscrowd": region.crowd, "note": ""})
    return entries
