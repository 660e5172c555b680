"""Label Studio: a JSON list of tasks with brush masks and polygons, and an XML file with the labels for its settings.

A task of a person has `annotations`. A task of a model has `predictions` with scores, which a person can correct.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

from ..atomic import read_json, write_atomic
from ..classes import pick_color
from ..data.images.pictures import write_bytes
from ..errors import printable
from .conversion import Conversion, base_name, explain_malformed, parse_score
from .outlines import close_parts
from .record import AnnotatedImage, Region, crop_region, place_region
from .runs import decode_brush, encode_brush
from .tracing import Parts

TASKS_FILE, LABELS_FILE = "tasks.json", "label_config.xml"
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts this before the names of uploaded files


def read_label_studio(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    path = source / TASKS_FILE if source.is_dir() else source
    for task in read_json(path, "export the project as JSON, not as JSON-MIN", list):
        with explain_malformed(path, "a list of Label Studio tasks"):
            item = parse_task(task, conversion)
        yield item


def parse_task(task: dict, conversion: Conversion) -> AnnotatedImage:
    """Converts a task, with its first annotation that is not cancelled, or with its first prediction."""
    file_name = find_image_name(task["data"], conversion)
    versions = [entry for entry in task.get("annotations") or [] if not entry.get("was_cancelled")]
    if len(versions) > 1:
        conversion.problems.add("tasks have several annotations; the first one is used", file_name)
    version: dict = next(iter([*versions, *(task.get("predictions") or [])]), {})
    results = [entry for entry in version.get("result", []) if "value" in entry]
    if not results:
        return AnnotatedImage(file_name, None, [])
    size = conversion.find_size(file_name, results[0].get("original_height"), results[0].get("original_width"))
    groups: dict[object, list[dict]] = {}
    for number, entry in enumerate(results):
        # A child is a part of its parent only if both are polygons with the same label.
        group = (str(entry.get("parentID") or entry.get("id") or number), find_label(entry["value"]))
        groups.setdefault(group if "points" in entry["value"] else number, []).append(entry)
    regions = [parse_results(entries, size, file_name, conversion) for entries in groups.values()]
    return AnnotatedImage(file_name, size, [region for region in regions if region])


def find_image_name(data: dict, conversion: Conversion) -> str:
    """Returns the file name of a task's image, without the prefix of an upload."""
    place = data.get("image") or next((value for value in data.values() if isinstance(value, str)), "")
    name = base_name(unquote(place.split("?d=", 1)[-1], errors="surrogateescape"))
    uploaded, images = UPLOADED.fullmatch(name), conversion.images
    if uploaded and (not images or Path(name).stem not in images and Path(uploaded[1]).stem in images):
        return uploaded[1]
    return name


def find_label(value: dict) -> str | None:
    """Returns the first label of a shape, or None if it has none."""
    labels = next((value[key] for key in value if key.endswith("labels")), None)
    return str(labels[0]) if labels else None


def parse_results(entries: list[dict], size: tuple[int, int], file_name: str, conversion: Conversion) -> Region | None:
    """Converts the parts of one object. Coordinates of polygons are percentages of the image."""
    value, score = entries[0]["value"], parse_score(entries[0].get("score"))
    name = find_label(value)
    if name is None:
        conversion.problems.add("objects have no label and are left out", file_name)
        return None
    if entries[0].get("image_rotation"):
        conversion.problems.add("objects are drawn on a rotated image and are left out", file_name)
        return None
    if "rle" in value:
        return crop_region(name, decode_brush(value["rle"], size), score=score)
    if "points" not in value:
        conversion.problems.add("shapes are neither polygons nor brush masks and are left out", file_name)
        return None
    height, width = size
    polygons = [[(x / 100 * width, y / 100 * height) for x, y in entry["value"]["points"]] for entry in entries]
    return conversion.fill(name, polygons, size, file_name, score=score)


def write_label_studio(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes `tasks.json`, task by task, and `label_config.xml`, the labelling interface of the project."""
    with write_atomic(folder / TASKS_FILE) as file:
        file.write(b"[")
        for number, item in enumerate(items, 1):
            task = json.dumps({"id": number} | make_task(item, conversion))
            file.write(f"{',' if number > 1 else ''}\n{task}".encode())
        file.write(b"\n]\n")
    kind = "Polygon" if conversion.options.shapes == "polygons" else "Brush"
    labels = ""
    for index, name in enumerate(conversion.names.labels, 1):
        color = "#{:02x}{:02x}{:02x}".format(*pick_color(index))
        labels += f'    <Label value={quoteattr(printable(name))} background="{color}"/>\n'
    text = f'<View>\n  <Image name="image" value="$image"/>\n  <{kind}Labels name="label" toName="image">\n{labels}'
    write_bytes(folder / LABELS_FILE, f"{text}  </{kind}Labels>\n</View>\n".encode())


def make_task(item: AnnotatedImage, conversion: Conversion) -> dict[str, object]:
    """Returns a task with a prediction if its objects have scores or are predicted, otherwise with an annotation."""
    results = []
    for number, (region, parts) in enumerate(zip(item.regions, conversion.trace(item), strict=True)):
        results += make_results(region, parts, number, item.known_size)
    data = {"image": conversion.options.image_root + quote(os.fsencode(item.file_name))}
    scores = [region.score for region in item.regions if region.score is not None]
    if not scores and not conversion.is_prediction:
        return {"data": data, "annotations": [{"id": 1, "result": results}]}
    score = {"score": sum(scores) / len(scores)} if scores else {}
    return {"data": data, "predictions": [{"id": 1, "model_version": "sam2unet", "result": results} | score]}


def make_results(region: Region, parts: Parts, number: int, size: tuple[int, int]) -> list[dict[str, object]]:
    """Returns a polygon for each part, or one brush. Parts after the first one have its id as `parentID`."""
    kind = "polygonlabels" if parts else "brushlabels"
    head = {"type": kind, "from_name": "label", "to_name": "image", "image_rotation": 0}
    head |= {"original_width": size[1], "original_height": size[0]}
    head |= {} if region.score is None else {"score": region.score}
    value: dict[str, object]
    if not parts:
        value = {"format": "rle", "rle": encode_brush(place_region(region, size)), kind: [region.name]}
        return [head | {"id": f"object{number}", "value": value}]
    results = []
    for index, polygon in enumerate(close_parts(parts)):
        points = [[round(100 * x / size[1], 6), round(100 * y / size[0], 6)] for x, y in polygon]
        value = {"points": points, "closed": True, kind: [region.name]}
        parent = {"parentID": f"object{number}"} if index else {}
        results.append(head | {"id": f"object{number}" + f"part{index}" * bool(index), "value": value} | parent)
    return results
