"""CVAT for images: one XML file with a list of labels and the shapes of each image."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from ..atomic import read_start, write_atomic
from ..errors import UserError, printable
from .conversion import Conversion, base_name, explain_malformed
from .outlines import close_parts
from .record import AnnotatedImage, Region, crop_region
from .runs import count_runs, expand_runs
from .tracing import Parts

CVAT_FILE = "annotations.xml"
OTHER_SHAPES = ("polyline", "points", "box", "ellipse", "cuboid", "skeleton")


def read_cvat(source: Path, conversion: Conversion) -> Iterator[AnnotatedImage]:
    """Reads image by image, so that the memory does not grow with the file. Refuses entities and document types."""
    path = source / CVAT_FILE if source.is_dir() else source
    read_start(path, 1)
    try:
        with open(path, "rb") as file:
            root = None
            for event, node in iterparse(file, events=("start", "end"), forbid_dtd=True):
                root = node if root is None else root
                if event == "start" and node.tag == "track":
                    raise UserError(f"{path} is CVAT for video; export the task as CVAT for images")
                if event == "end" and node.tag == "labels":
                    conversion.names.declare(name.text for name in node.iterfind("label/name") if name.text)
                if event == "end" and node.tag == "image":
                    with explain_malformed(path, "CVAT for images"):
                        item = parse_cvat_image(node, conversion)
                    yield item
                    root.clear()
    except ParseError as e:
        raise UserError(f"{path} is not XML: {e}; export it again") from e
    except DefusedXmlException as e:
        raise UserError(f"{path} has a document type or entities, which can be harmful; export it again") from e


def parse_cvat_image(node: Element, conversion: Conversion) -> AnnotatedImage:
    """Converts an image. Polygons with the same label and group are the parts of one object. `z_order` is the order."""
    file_name = base_name(node.attrib["name"])
    size = conversion.find_size(file_name, node.get("height"), node.get("width"))
    groups: dict[tuple[str, object], list[Element]] = {}
    for number, shape in enumerate(sorted(node, key=lambda shape: int(shape.get("z_order", 0)))):
        if shape.tag in OTHER_SHAPES:
            text = "shapes are neither polygons nor masks and are left out"
            conversion.problems.add(text, f"{shape.tag} {file_name}")
        elif shape.tag in ("polygon", "mask"):
            group = shape.get("group_id", "0") if shape.tag == "polygon" else "0"
            key = shape.attrib["label"], number if group == "0" else f"group {group}"
            groups.setdefault(key, []).append(shape)
    regions = []
    for (label, _), shapes in groups.items():
        if shapes[0].tag == "mask":
            regions.append(parse_cvat_mask(label, shapes[0], size))
            continue
        polygons = [[point.split(",") for point in shape.attrib["points"].split(";")] for shape in shapes]
        regions.append(conversion.fill(label, polygons, size, file_name))
    return AnnotatedImage(file_name, size, regions)


def parse_cvat_mask(label: str, shape: Element, size: tuple[int, int]) -> Region:
    """Converts run lengths, row by row in the bounding box."""
    left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("a mask lies outside its image")
    counts = [int(count) for count in shape.attrib["rle"].split(",")]
    return crop_region(label, expand_runs(counts, width * height).reshape(height, width), (top, left))


def write_cvat(folder: Path, items: Iterable[AnnotatedImage], conversion: Conversion) -> None:
    """Writes `annotations.xml`. CVAT needs the labels at the top, so the images first go to a temporary file."""
    with tempfile.TemporaryFile() as body, write_atomic(folder / CVAT_FILE) as file:
        count = 0
        for number, item in enumerate(items):
            body.write(format_cvat_image(number, item, conversion).encode())
            count += 1
        labels = [escape(printable(name)) for name in conversion.names.labels]
        rows = "".join(f"<label><name>{name}</name><attributes></attributes></label>\n" for name in labels)
        task = f"<task><name>sam2unet</name><size>{count}</size><mode>annotation</mode><labels>\n{rows}</labels></task>"
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"<meta>{task}</meta>\n".encode())
        body.seek(0)
        shutil.copyfileobj(body, file)
        file.write(b"</annotations>\n")


def format_cvat_image(number: int, item: AnnotatedImage, conversion: Conversion) -> str:
    (height, width), name = item.known_size, quoteattr(printable(item.file_name))
    head = f'<image id="{number}" name={name} width="{width}" height="{height}">\n'
    numbered = enumerate(zip(item.regions, conversion.trace(item), strict=True))
    shapes = [shape for index, (region, parts) in numbered for shape in format_cvat(region, parts, index)]
    return f"{head}{''.join(shapes)}</image>\n"


def format_cvat(region: Region, parts: Parts, number: int) -> list[str]:
    """Returns a polygon for each part, or one mask. Several parts share a `group_id`."""
    head = f'label={quoteattr(printable(region.name))} source="auto" occluded="0" z_order="{number}"'
    if polygons := close_parts(parts):
        group = f' group_id="{number + 1}"' if len(polygons) > 1 else ""
        texts = [";".join(f"{x:.2f},{y:.2f}" for x, y in polygon) for polygon in polygons]
        return [f'  <polygon {head}{group} points="{text}"></polygon>\n' for text in texts]
    height, width = region.pixels.shape
    box = f'left="{region.left}" top="{region.top}" width="{width}" height="{height}"'
    counts = ", ".join(map(str, count_runs(region.pixels.ravel())))
    return [f'  <mask {head} rle="{counts}" {box}></mask>\n']
