"""Label maps: the value of a pixel is the number of its object, or 0. The PNG also contains the classes."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...data.images.reading import open_image
from ...errors import UserError, printable
from .state import Object

CLASSES_NOTE = "object classes"  # the key of the text in the PNG
MODES = ("1", "L", "P", "I;16", "I")  # modes of Pillow with one whole number for each pixel
LARGEST = 200  # the largest number of objects in a label map; a photograph has more values
LONGEST_NAME = 60  # characters of the name of a class


def make_label_map(objects: Sequence[Object]) -> ndarray:
    """Returns (height, width) with the number of the object at each pixel, or 0.

    Where objects overlap, the lowest number counts. The type is uint8, or uint16 if a number is above 255. There must
    be at least one object.
    """
    largest = max(item.number for item in objects)
    labels = np.zeros(objects[0].mask.shape, np.uint8 if largest < 256 else np.uint16)
    for item in sorted(objects, key=lambda item: -item.number):
        labels[item.mask.decompress()] = item.number
    return labels


def encode_label_map(objects: Sequence[Object]) -> bytes:
    """Encodes the label map of objects as PNG."""
    note, file = PngInfo(), BytesIO()
    note.add_text(CLASSES_NOTE, json.dumps({item.number: item.class_name for item in objects if item.class_name}))
    Image.fromarray(make_label_map(objects)).save(file, "PNG", compress_level=1, pnginfo=note)
    return file.getvalue()


def read_object_map(path: Path) -> tuple[ndarray, dict[int, str]]:
    """Returns the pixels (height, width) and the class of each object, or "". UserError if it is no label map."""
    with open_image(path) as image:
        if image.mode not in MODES:
            problem = "has colours, transparency or fractions; a label map has one whole number for each pixel"
            raise UserError(f"{path} {problem}")
        labels = np.asarray(image) if image.mode != "1" else np.asarray(image).view(np.uint8)
        names = parse_names(getattr(image, "text", {}).get(CLASSES_NOTE, "{}"))
    numbers = [number for number in np.unique(labels).tolist() if number]
    if not numbers:
        raise UserError(f"{path} has no objects: all of its pixels are 0")
    if min(numbers) < 0 or max(numbers) > 65535 or len(numbers) > LARGEST:
        raise UserError(f"{path} is no label map: wanted at most {LARGEST} different numbers, from 0 to 65535")
    return labels, {number: clean_class_name(names.get(str(number), "")) for number in numbers}


def parse_names(text: str) -> dict[str, str]:
    """Reads the text of a PNG, in which a visitor can write anything."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {key: name for key, name in names.items() if isinstance(name, str)} if isinstance(names, dict) else {}


def clean_class_name(text: str) -> str:
    return " ".join(printable(text).split())[:LONGEST_NAME].strip()
