"""Files in which one value is missing or has another type: annotations, or one line, but no traceback."""

import base64
import copy
import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from sam2unet.annotations import formats
from sam2unet.annotations.conversion import Conversion
from sam2unet.annotations.runs import encode_brush
from sam2unet.errors import UserError
from tests.annotations import small_files as small

VALUES = [
    None,
    -1,
    0,
    3.7,
    1e308,
    10**30,
    "",
    "x",
    "a" * 300,
    "../../x",
    "\0",
    [],
    {},
    [[]],
    [1],
    [[1, 2]],
    np.nan,
    np.inf,
]
RUNS = 80  # of each format


def write_coco_runs(folder):
    runs = {"size": [10, 20], "counts": [0, 200]}
    entries = [{"segmentation": [small.flat(small.SQUARE)], "score": 0.5}, {"segmentation": runs, "iscrowd": 1}]
    return small.write_coco(folder, entries)


def write_labelme_mask(folder):
    file = io.BytesIO()
    Image.new("L", (6, 3), 255).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    polygon = {"label": "dog", "points": small.SQUARE, "shape_type": "polygon", "group_id": 1, "score": 0.5}
    shapes = {"label": "cat", "points": [[3, 2], [8, 4]], "shape_type": "mask", "mask": mask}
    return small.write_labelme(folder, polygon, shapes)


def write_brush(folder):
    value = {"rle": encode_brush(small.make_square()), "brushlabels": ["dog"]}
    return small.write_label_studio(folder, value, score=0.3)


WRITERS = {
    "coco": write_coco_runs,
    "labelme": write_labelme_mask,
    "label_studio": write_brush,
    "isat": small.write_isat,
}


def list_places(content, place=()):
    """The keys and indices that lead to each value."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in children:
        yield (*place, key)
        yield from list_places(value, (*place, key))


@pytest.mark.parametrize("name", WRITERS)
def test_a_wrong_value_gives_annotations_or_one_line(tmp_path, name):
    source, rng = WRITERS[name](tmp_path), random.Random(0)
    path = source / "a.json" if source.is_dir() else source
    original = json.loads(path.read_text())
    places = [place for place in list_places(original) if "rle" not in place[:-1]]
    refused = 0
    for number in range(RUNS):
        changed = copy.deepcopy(original)
        parent, place = changed, rng.choice(places)
        for key in place[:-1]:
            parent = parent[key]
        if rng.random() < 0.2:
            del parent[place[-1]]
        else:
            parent[place[-1]] = rng.choice(VALUES)
        path.write_text(json.dumps(changed))
        target = rng.choice(["classes", "coco", "cvat", "label_studio", "isat", "voc"])
        try:
            formats.run(source, name, tmp_path / f"out{number}", target, Conversion())
        except UserError as error:
            assert len(error.args) == 1 and "\n" not in str(error)
            refused += 1
    assert 0 < refused < RUNS
