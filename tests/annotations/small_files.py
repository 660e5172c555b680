"""Writes a small file of each format, as the documentation of the tools shows it: an image of 20 x 10 with a dog."""

import json

import numpy as np
from PIL import Image

SQUARE = [[2, 1], [8, 1], [8, 5], [2, 5]]  # x and y: columns 2 to 7, rows 1 to 4
FAR = [[15, 8], [40, 8], [40, 30], [15, 30]]  # reaches outside an image of 20 x 10


def flat(polygon):
    return [value for point in polygon for value in point]


def make_square():
    mask = np.zeros((10, 20), bool)
    mask[1:5, 2:8] = True
    return mask


def write_coco(folder, objects=None, **image):
    objects = objects or [{"segmentation": [flat(SQUARE)], "iscrowd": 0, "bbox": [2, 1, 6, 4], "area": 24}]
    content = {
        "info": {},
        "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 10, **image}],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog"}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 9, **entry} for n, entry in enumerate(objects)],
    }
    return write(folder / "coco.json", json.dumps(content))


def write_labelme(folder, *shapes, **fields):
    shapes = shapes or ({"label": "dog", "points": SQUARE, "group_id": None, "shape_type": "polygon", "flags": {}},)
    content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": "..\\images\\a.jpg", "imageData": None}
    write(folder / "labelme/a.json", json.dumps(content | {"imageHeight": 10, "imageWidth": 20} | fields))
    return folder / "labelme"


def write_yolo(folder, lines="1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n", names="names:\n  0: cat\n  1: dog\n"):
    write(folder / "yolo/data.yaml", f"path: .\ntrain: images\n{names}")
    write(folder / "yolo/labels/a.txt", lines)
    return folder / "yolo"


def write_cvat(folder, shapes="", head='<?xml version="1.0" encoding="utf-8"?>'):
    shapes = shapes or (
        '<polygon label="dog" source="manual" occluded="0" points="2.00,1.00;8.00,1.00;8.00,5.00;2.00,5.00">'
        '<attribute name="age">2</attribute></polygon>'
    )
    labels = "".join(f"<label><name>{name}</name><attributes></attributes></label>" for name in ("cat", "dog"))
    meta = f"<version>1.1</version><meta><task><id>1</id><labels>{labels}</labels></task></meta>"
    image = f'<image id="0" name="sub/a.jpg" width="20" height="10">{shapes}</image>'
    return write(folder / "cvat.xml", f"{head}<annotations>{meta}{image}</annotations>")


def write_label_studio(folder, value=None, **entry):
    value = value or {"points": [[100 * x / 20, 100 * y / 10] for x, y in SQUARE], "polygonlabels": ["dog"]}
    result = {"id": "x", "type": "polygonlabels", "original_width": 20, "original_height": 10, "value": value} | entry
    task = {"id": 1, "data": {"image": "s3://bucket/my%20images/a.jpg"}, "annotations": [{"result": [result]}]}
    return write(folder / "tasks.json", json.dumps([task]))


def write_isat(folder, *objects):
    objects = objects or ({"category": "dog", "group": 1, "segmentation": SQUARE, "layer": 1.0, "iscrowd": False},)
    info = {"description": "ISAT", "folder": "x", "name": "a.jpg", "width": 20, "height": 10, "depth": 3, "note": ""}
    write(folder / "isat/a.json", json.dumps({"info": info, "objects": objects}))
    return folder / "isat"


def write_voc(folder):
    image = Image.fromarray(make_square().astype(np.uint8) * 2)
    image.putpalette([value for value in range(256) for _ in range(3)])
    (folder / "voc/SegmentationClass").mkdir(parents=True)
    image.save(folder / "voc/SegmentationClass/a.png")
    write(folder / "voc/labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:::\ndog:2,2,2::\n")
    return folder / "voc"


WRITERS = {
    "coco": write_coco,
    "labelme": write_labelme,
    "yolo": write_yolo,
    "cvat": write_cvat,
    "label_studio": write_label_studio,
    "isat": write_isat,
    "voc": write_voc,
}


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
