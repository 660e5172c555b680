"""What the path of a file says: image or mask, and of SA-Med2D-20M and IMed-361M also the modality and the case."""

import ast
import re
from pathlib import PurePosixPath
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
IMED_LABEL = re.compile(r"(?P<stem>.+)\.(?P<shape>\([\d, ]+\))")
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


def find_role(path: str) -> FileRole | None:
    """Returns the role of a file by its path inside the source, with `/` between folders. None for other files."""
    parts = PurePosixPath(path)
    folder, top = parts.parent.name.lower(), parts.parent.parent
    if parts.suffix == ".npz" and folder == "label":
        return find_label_role(parts)
    if parts.name.startswith(".") or parts.suffix.lower() not in EXTENSIONS:
        return None
    is_mask, is_image = bool(LIKE_MASKS.fullmatch(folder)), bool(LIKE_IMAGES.fullmatch(folder))
    if not (is_mask or is_image) or "__MACOSX" in parts.parts:
        return None
    if match := SA_MED2D.fullmatch(parts.stem):
        names = match.groupdict()
        if is_mask == (names["class_id"] is not None):
            key = f"{top}/{parts.stem.rpartition('--')[0] if is_mask else parts.stem}"
            case = names["case"] + (f"--{names['plane']}" if names["plane"] == "2d_none" else "")
            numbers = int(names["class_id"] or -1), int(names["instance"] or 0)
            return FileRole(MASK if is_mask else IMAGE, key, names["dataset"], case, names["modality"], *numbers)
    return FileRole(MASK if is_mask else IMAGE, f"{top}/{parts.stem}", top.name, parts.stem)


def find_label_role(parts: PurePosixPath) -> FileRole | None:
    """Returns the role of a file with a mask in each row, as in IMed-361M."""
    match = IMED_LABEL.fullmatch(parts.stem)
    if not match:
        return None
    top, rows = parts.parent.parent, ast.literal_eval(match["shape"])[0]
    return FileRole(MASK, f"{top}/{match['stem']}", top.name, match["stem"], class_id=0, rows=rows)


def explain_names() -> str:
    """Returns which folders hold images and masks, for messages."""
    return f"images are in folders named {', '.join(IMAGE_NAMES)}, masks in {', '.join(MASK_NAMES)}"
