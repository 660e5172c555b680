"""Small files of each format, as the documentation of the tools shows them, and what is wrong with files."""

import json

import numpy as np
import pytest

from tests.annotations.conftest import read_array
from tests.annotations.small_files import (
    FAR,
    SQUARE,
    WRITERS,
    flat,
    make_square,
    write,
    write_coco,
    write_cvat,
    write_isat,
    write_label_studio,
    write_labelme,
    write_voc,
    write_yolo,
)
from tests.conftest import save


@pytest.mark.parametrize("name", WRITERS)
def test_a_small_file_of_each_format(read, tmp_path, name):
    end, mask = read(name, WRITERS[name](tmp_path))
    assert (end.status, end.err) == (0, [])
    assert (mask == 2 * make_square()).all()


@pytest.mark.parametrize(
    ("name", "write_far"),
    [
        ("coco", lambda folder: write_coco(folder, [{"segmentation": [flat(FAR)]}])),
        ("labelme", lambda folder: write_labelme(folder, {"label": "dog", "points": FAR, "shape_type": "polygon"})),
        ("yolo", lambda folder: write_yolo(folder, f"1 {' '.join(f'{x / 20} {y / 10}' for x, y in FAR)}")),
        ("cvat", lambda f: write_cvat(f, '<polygon label="dog" points="15,8;40,8;40,30;15,30" z_order="0"></polygon>')),
        ("isat", lambda folder: write_isat(folder, {"category": "dog", "group": 1, "segmentation": FAR, "layer": 1})),
        (
            "label_studio",
            lambda f: write_label_studio(f, {"points": [[5 * x, 10 * y] for x, y in FAR], "polygonlabels": ["dog"]}),
        ),
    ],
)
def test_polygons_outside_the_image_are_cut(read, tmp_path, name, write_far):
    end, mask = read(name, write_far(tmp_path))
    assert end.status == 0
    assert end.err == ["warning: 1 objects have polygons that reach outside the image and are cut at its edge: a.jpg"]
    assert (np.argwhere(mask) == [(row, column) for row in (8, 9) for column in range(15, 20)]).all()


def test_run_lengths_and_crowds_of_coco(read, tmp_path):
    ones = [{"segmentation": {"size": [10, 20], "counts": [0, 200]}, "iscrowd": 1, "category_id": 3}]
    square = {"segmentation": {"size": [10, 20], "counts": [21, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 125]}}
    end, mask = read("coco", write_coco(tmp_path, [square, *ones]))
    assert (mask == np.where(make_square(), 2, 1)).all()  # the crowd is behind the object
    assert end.err == ["warning: 1 images have objects that overlap; the later object covers the earlier: a.jpg"]


def test_problems_of_coco_have_one_line_each(read, tmp_path):
    objects = [
        {"segmentation": [flat(SQUARE)]},
        {"segmentation": [flat(SQUARE)], "category_id": 44},
        {"segmentation": [flat(SQUARE)], "image_id": 99},
        {"segmentation": [], "bbox": [1, 1, 2, 2]},
        {"segmentation": {"size": [20, 10], "counts": [200]}},
        {"segmentation": {"size": [10, 20], "counts": "zzzz"}},
        {"segmentation": [[50, 50, 60, 50, 60, 60]]},
    ]
    end, mask = read("coco", write_coco(tmp_path, objects))
    assert end.status == 0
    assert sorted(line.removeprefix("warning: 1 ") for line in end.err) == [
        "objects have a damaged RLE and are left out: a.jpg",
        "objects have an RLE of another size than the image and are left out: a.jpg",
        "objects have an unknown category_id and are left out: 44",
        "objects have no mask (only a box, for example) and are left out: a.jpg",
        "objects have no pixel in the image and are left out: a.jpg",
        "objects have polygons that reach outside the image and are cut at its edge: a.jpg",
        "values of image_id belong to no image; their objects are left out: 99",
    ]
    assert (mask == 2 * make_square()).all()


def test_classes_that_the_file_lacks(read, tmp_path):
    shapes = [{"label": label, "points": SQUARE, "shape_type": "polygon"} for label in ("bird", "dog", "bird")]
    end, mask = read("labelme", write_labelme(tmp_path, *shapes))
    assert end.err == ["warning: 2 objects have a class that --classes lacks and are left out: bird"]
    assert mask.max() == 2


def test_shapes_of_labelme(read, tmp_path):
    shapes = [
        {"label": "dog", "points": [[8, 5], [2, 1]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[15, 5], [15, 8]], "shape_type": "circle"},
        {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "line"},
    ]
    end, mask = read("labelme", write_labelme(tmp_path, *shapes))
    assert end.err == ["warning: 1 shapes are lines or points and are left out: a.jpg"]
    assert ((mask == 2) == make_square()).all()
    assert abs((mask == 1).sum() - 9 * np.pi) < 4


def test_shapes_of_x_anylabeling(read, tmp_path):
    """Its files are those of labelme, but a rectangle has four corners, and a model's polygon ends where it starts."""
    far = [[12, 1], [16, 1], [16, 5], [12, 5]]
    for kind, points in (("rectangle", SQUARE), ("rotation", SQUARE), ("polygon", [*SQUARE, SQUARE[0]])):
        fields = {"score": None, "description": "", "difficult": False, "attributes": {}, "kie_linking": []}
        shapes = [
            {"label": label, "points": place, "shape_type": kind, "group_id": None, **fields}
            for label, place in (("dog", points), ("cat", far))
        ]
        (tmp_path / kind).mkdir()
        end, mask = read("labelme", write_labelme(tmp_path / kind, *shapes, version="3.2.1", checked=False))
        assert (end.status, end.err) == (0, []) and ((mask == 2) == make_square()).all() and (mask == 1).sum() == 16


def test_a_background_polygon_of_isat_cuts_a_hole(read, tmp_path):
    hole = {"category": "__background__", "group": 2, "segmentation": [[3, 2], [5, 2], [5, 4], [3, 4]], "layer": 2.0}
    body = {"category": "dog", "group": 1, "segmentation": SQUARE, "layer": 1.0}
    _, mask = read("isat", write_isat(tmp_path, hole, body))
    expected = make_square()
    expected[2:4, 3:5] = False
    assert (mask == 2 * expected).all()


def test_the_order_of_cvat_is_z_order(read, tmp_path):
    mask_shape = '<mask label="cat" rle="0, 4" left="2" top="1" width="4" height="1" z_order="5"></mask>'
    polygon = '<polygon label="dog" points="2,1;8,1;8,5;2,5" z_order="1"></polygon>'
    end, mask = read("cvat", write_cvat(tmp_path, mask_shape + polygon + '<box label="cat" xtl="0"></box>'))
    assert (mask[1, 2:8] == [1, 1, 1, 1, 2, 2]).all()
    assert "warning: 1 shapes are neither polygons nor masks and are left out: box a.jpg" in end.err


@pytest.mark.parametrize("doctype", ['<!DOCTYPE a [<!ENTITY b "bbbb">]>', '<!DOCTYPE a SYSTEM "file:///etc/passwd">'])
def test_xml_with_entities_is_refused(read, tmp_path, doctype):
    end, _ = read("cvat", write_cvat(tmp_path, head=doctype))
    assert end.is_refusal("has a document type or entities, which can be harmful")
    assert not (tmp_path / "out").exists()


def test_a_size_that_differs_from_the_image(read, tmp_path):
    save(tmp_path / "images/b.jpg", np.zeros((10, 20, 3), np.uint8))
    end, mask = read("coco", write_coco(tmp_path, width=21))
    assert end.err == [
        "warning: 1 images have another size than their annotation and are left out: a.jpg is 20x10, annotated 21x10",
        "warning: 1 images have no annotation and become images without objects: b.jpg",
    ]
    assert mask is None


def test_missing_images_and_images_without_objects(convert_py, read, tmp_path):
    save(tmp_path / "images/b.png", np.zeros((6, 7, 3), np.uint8))
    source = write_coco(tmp_path, file_name="c.jpg")
    missing = "warning: 1 annotated images do not exist; their objects are left out: c.jpg"
    empty = "warning: 2 images have no annotation and become images without objects: a.jpg, b.png"
    end, mask = read("coco", source)
    assert (end.status, end.err) == (0, [missing, empty])
    assert not mask.any() and read_array(tmp_path / "out/masks/b.png").shape == (6, 7)
    words = ("--from", "coco", "--to", "masks", "--images", tmp_path / "images", "--empty", "skip")
    end = convert_py(source, *words, "--save_path", tmp_path / "skipped")
    assert end.err == [missing, f"error: {source} has no image that could be converted"]


def test_two_images_with_one_name(read, tmp_path):
    content = json.loads(write_coco(tmp_path).read_text())
    content["images"].append(content["images"][0] | {"id": 8, "file_name": "other/a.png"})
    end, mask = read("coco", write(tmp_path / "coco.json", json.dumps(content)))
    name = "images have a name that occurred before (without folder and extension) and are left out"
    assert end.err == [f"warning: 1 {name}: a"]
    assert mask.any()


def write_two_images_with_one_id(folder):
    content = json.loads(write_coco(folder).read_text())
    content["images"].append(content["images"][0] | {"file_name": "b.jpg"})
    return write(folder / "coco.json", json.dumps(content))


def write_wrong_label_map(folder):
    save(write_voc(folder) / "SegmentationClass/a.png", np.zeros((10, 20, 3), np.uint8))
    return write(folder / "voc/labelmap.txt", "background:0,0,0::\ncat:1,2::\n").parent


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("coco", lambda f: write(f / "x.json", "[1]"), "x.json holds a list, not an object"),
        ("coco", lambda f: write(f / "x.json", "{}"), "x.json is not a COCO file: no 'categories'"),
        ("coco", lambda f: write_coco(f, width=10**9), "the size 1000000000x10 is impossible"),
        ("coco", lambda f: write_coco(f, [{"segmentation": [[1, 2, 3]]}]), "is not a COCO file"),
        ("coco", lambda f: write_coco(f, [{"segmentation": [[1e30, 2, 3, 4, 5, 6]]}]), "not a finite number"),
        ("coco", lambda f: write_coco(f, [{"segmentation": [["x", 2, 3, 4, 5, 6]]}]), "is not a COCO file"),
        ("labelme", lambda f: f, "no .json files in"),
        ("labelme", lambda f: write_labelme(f, {"points": SQUARE}), "a.json is not a labelme file: no 'label'"),
        ("labelme", lambda f: f / "nothing", "no such file or folder"),
        ("yolo", lambda f: write_yolo(f, "1 0.5 a 0.5 0.1 0.2 0.3"), "a.txt is not YOLO segmentation text (line 1)"),
        ("yolo", lambda f: write_yolo(f, names=""), "data.yaml is not the description of a YOLO data set: no 'names'"),
        ("cvat", lambda f: write(f / "x.xml", "<annotations><image"), "x.xml is not XML"),
        ("cvat", lambda f: write(f / "x.xml", "<annotations><track/></annotations>"), "x.xml is CVAT for video"),
        (
            "cvat",
            lambda f: write_cvat(f, '<mask label="dog" rle="1,2" left="0" top="0" width="4" height="4"/>'),
            "add up",
        ),
        ("label_studio", lambda f: write(f / "x.json", "{}"), "export the project as JSON, not as JSON-MIN"),
        (
            "label_studio",
            lambda f: write_label_studio(f, {"rle": [0] * 9, "brushlabels": ["dog"]}),
            "is not of an image",
        ),
        ("label_studio", lambda f: write_label_studio(f, {"rle": [7, 300], "brushlabels": ["dog"]}), "is not a list"),
        ("isat", lambda f: write(f / "isat/a.json", "{}").parent, "a.json is not an ISAT file: no 'info'"),
        ("voc", lambda f: f, "SegmentationClass; give the folder that holds SegmentationClass"),
        ("voc", write_wrong_label_map, "labelmap.txt: color is [1, 2]; wanted red, green and blue"),
        ("coco", write_two_images_with_one_id, "coco.json: a.jpg and b.jpg have the same id, 7; give each its own id"),
        (
            "labelme",
            lambda f: write_labelme(f) / "a.json",
            "a.json is a file; give the folder that holds the .json files",
        ),
    ],
)
def test_bad_files_end_in_one_line(read, tmp_path, name, source, words):
    end, mask = read(name, source(tmp_path))
    assert end.is_refusal(words), end.err
    assert mask is None and not (tmp_path / "out").exists()


def test_wrong_flags_end_in_one_line(convert_py, tmp_path, binary_set):
    masks, words = binary_set.masks, ("--from", "masks", "--images", binary_set.images)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for flags, text in (
        (("--to", "yolo", "--save_path", tmp_path / "o", "--shapes", "masks"), "written with --shapes polygons"),
        (("--to", "coco", "--save_path", tmp_path / "o", "--tolerance", -1), "--tolerance from 0 to 100"),
        (("--to", "coco", "--save_path", tmp_path / "mine"), "holds files that this script did not make"),
        (("--to", "masks", "--save_path", masks), "is the folder of"),
    ):
        assert convert_py(masks, *words, *flags).is_refusal(text), flags
    end = convert_py(masks, "--from", "masks", "--to", "coco", "--save_path", tmp_path / "o")
    assert end.is_refusal("give the folder of the images, --images")
    end = convert_py(masks, "--from", "classes", *words[2:], "--to", "coco", "--save_path", tmp_path / "o")
    assert end.is_refusal("need --classes FILE")
    assert not (tmp_path / "o").exists()


def test_a_second_call_writes_the_same_files(convert_py, class_set, tmp_path):
    words = (*class_set.flags, "--to", "labelme", "--images", class_set.images, "--save_path", tmp_path / "out")
    texts = []
    for _ in range(2):
        assert convert_py(class_set.masks, *words).status == 0
        texts.append({path.name: path.read_text() for path in (tmp_path / "out").iterdir()})
    assert texts[0] == texts[1]
    end = convert_py(class_set.masks, *class_set.flags, "--to", "coco", *words[-4:])
    assert end.is_refusal("was made for annotations, labelme, not for annotations, coco")
