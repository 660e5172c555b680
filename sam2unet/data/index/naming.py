"""Finds out from the path of a file whether it is an image or a mask.

The names of SA-Med2D-20M also give the data set, the modality, the case and the class.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from ..layouts.table import IMAGE_NAMES, IMAGES, MASK_NAMES, MASKS, to_expression
from ..pairs import EXTENSIONS

IMAGE, MASK = "image", "mask"
# SA-Med2D-20M: ct_00--AbdomenCT1K--Case_00011--x_0040.png, and its masks add --0000_001
SA_MED2D = re.compile(
    r"(?P<modality>.+?)(?:_\d+)?--(?P<dataset>.+?)--(?P<case>.+?)--(?P<plane>[^-]+?)"
    r"(?:--(?P<class_id>\d{4})_(?P<instance>\d{3}))?"
)
# IMed-361M: NAME/image/x.png, and in NAME/label/x.(C, H, W, 1).npz a row for each of C classes
IMED_LABEL = re.compile(r"(?P<stem>.+)\.\((?P<rows>[1-9]\d{0,3})(?:, *\d+)+\)")
LIKE_IMAGES, LIKE_MASKS = to_expression(IMAGES), to_expression(MASKS)


class FileRole(NamedTuple):
    """What a file is. An image and its masks have the same `key`."""

    kind: str  # IMAGE or MASK
    key: str
    dataset: str
    case: str
    modality: str = ""
    class_id: int = -1
    instance: int = 0
    rows: int = 0  # of a file of SciPy, the number of its masks; 0 for a picture
    is_listed: bool = False  # by a .json file, which gives an image any masks


@lru_cache
def find_kind(folder: str) -> str | None:
    """Returns whether a folder with this name holds images or masks, None for any other name."""
    if LIKE_MASKS.fullmatch(folder.lower()):
        return MASK
    return IMAGE if LIKE_IMAGES.fullmatch(folder.lower()) else None


def find_role(path: str) -> FileRole | None:
    """Returns the role of a file by its path inside the source, with `/` between folders. None for other files."""
    folders, _, name = path.rpartition("/")  # texts, because objects of pathlib take most of the time of a listing
    top, _, folder = folders.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    kind = find_kind(folder)
    if kind is None or not stem or name.startswith("."):
        return None
    dataset = top.rpartition("/")[2]
    if suffix == "npz" and kind == MASK and (label := IMED_LABEL.fullmatch(stem)):
        stem = label["stem"]
        return FileRole(MASK, f"{top}/{stem}", dataset, stem, class_id=0, rows=int(label["rows"]))
    if dot + suffix.lower() not in EXTENSIONS or "__MACOSX" in top:
        return None
    match = SA_MED2D.fullmatch(stem)
    if match and (match["class_id"] is not None) == (kind == MASK):
        key = f"{top}/{stem.rpartition('--')[0] if kind == MASK else stem}"
        case = match["case"] + f"--{match['plane']}" * (match["plane"] == "2d_none")
        numbers = int(match["class_id"] or -1), int(match["instance"] or 0)
        return FileRole(kind, key, match["dataset"], case, match["modality"], *numbers)
    return FileRole(kind, f"{top}/{stem}", dataset, stem)


def explain_names() -> str:
    """Returns which folders hold images and masks, for messages."""
    return f"images are in folders named {', '.join(IMAGE_NAMES)}, masks in {', '.join(MASK_NAMES)}"
