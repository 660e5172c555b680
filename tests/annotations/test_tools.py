"""The libraries of the tools read what is written here, and their files are read here.

Only pycocotools is installed for development. The other tests run where the library is: labelme, label-studio-sdk,
datumaro (CVAT, Pascal VOC), ultralytics (YOLO), supervision and isat-sam. They need no display.
"""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.annotations.conftest import compute_iou, read_array
from tests.conftest import save

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def exported(convert_py, binary_set, tmp_path):
    """`exported("coco", "masks")` is a folder with the real masks in that format, and a copy of the images."""

    def export(name: str, shape: str = "polygons", *flags: object) -> Path:
        shutil.copytree(binary_set.images, tmp_path / "images", dirs_exist_ok=True)
        words = ("--to", name, "--shapes", shape, "--images", tmp_path / "images", "--save_path", tmp_path / name)
        end = convert_py(binary_set.masks, *binary_set.flags, *words, *flags)
        assert end.status == 0, end.err
        return tmp_path / name

    return export


def read_truth(binary_set):
    return {path.stem: read_array(path) > 0 for path in sorted(binary_set.masks.iterdir())}


def check_agreement(found, truth, least):
    assert found.keys() == truth.keys()
    low = {name: compute_iou(found[name], truth[name]) for name in truth}
    assert {name: iou for name, iou in low.items() if iou < least} == {}


def unite(masks, size):
    return np.any([np.zeros(size, bool), *masks], axis=0)


def read_with_pycocotools(path):
    from pycocotools.coco import COCO

    coco = COCO(str(path))
    return {
        Path(row["file_name"]).stem: unite(
            [coco.annToMask(entry) > 0 for entry in coco.loadAnns(coco.getAnnIds(number))],
            (row["height"], row["width"]),
        )
        for number, row in coco.imgs.items()
    }


def read_with_datumaro(folder, name, truth):
    from datumaro import Dataset
    from pycocotools import mask as coco_mask

    found = {}
    for item in Dataset.import_from(str(folder), name):
        size = truth[item.id].shape
        masks = [
            np.asarray(entry.image) > 0
            if entry.type.name == "mask"
            else coco_mask.decode(coco_mask.frPyObjects([entry.points], *size))[..., 0] > 0
            for entry in item.annotations
            if entry.type.name in ("mask", "polygon")
        ]
        found[item.id] = unite(masks, size)
    return found


@pytest.mark.parametrize(("shape", "least"), [("polygons", 0.98), ("masks", 1), ("uncompressed", 1)])
def test_pycocotools_reads_coco(exported, binary_set, shape, least):
    found = read_with_pycocotools(exported("coco", shape) / "annotations.json")
    check_agreement(found, read_truth(binary_set), least)


def test_pycocotools_scores_predictions(exported, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = exported("coco", "masks") / "annotations.json"
    entries = json.loads(path.read_text())["annotations"]
    coco = COCO(str(path))
    scores = COCOeval(coco, coco.loadRes([entry | {"score": 0.5} for entry in entries]), "segm")
    scores.params.maxDets = [1, 100, 1000]
    scores.evaluate()
    scores.accumulate()
    assert scores.eval["precision"][:, :, :, 0, 2].min() > 0.99  # each object finds itself


@pytest.mark.parametrize(("shape", "least"), [("polygons", 0.97), ("masks", 1)])
def test_labelme_reads_its_format(exported, binary_set, shape, least):
    labelme = pytest.importorskip("labelme._label_file")
    from labelme.utils.shape import shapes_to_label

    found = {}
    for path in exported("labelme", shape).glob("*.json"):
        content = labelme.LabelFile(str(path))  # also reads the image
        size = Image.open(io.BytesIO(content.image_data)).size[::-1]
        classes, _ = shapes_to_label(size, content.shapes, {"_background_": 0, "object": 1})
        found[path.stem] = classes > 0
    check_agreement(found, read_truth(binary_set), least)


def test_labelme_writes_what_is_read_here(convert_py, tmp_path):
    labelme = pytest.importorskip("labelme._label_file")
    from labelme.utils import img_arr_to_b64
    from labelme.utils.shape import shape_to_mask

    save(tmp_path / "a.png", np.zeros((50, 60, 3), np.uint8))
    mask = np.tri(10, 20, 5).astype(np.uint8)
    plain = {"group_id": None, "flags": {}, "description": ""}
    polygon = [[30.5, 10.2], [50.7, 12.9], [40.1, 40.6]]
    shapes = [
        plain | {"label": "cat", "shape_type": "mask", "points": [[5, 6], [24, 15]], "mask": img_arr_to_b64(mask)},
        plain | {"label": "dog", "shape_type": "polygon", "points": polygon},
    ]
    labelme.LabelFile().save(str(tmp_path / "a.json"), shapes, "a.png", 50, 60)
    end = convert_py(tmp_path, "--from", "labelme", "--to", "classes", "--save_path", tmp_path / "out")
    assert (end.status, end.err) == (0, [])
    found = read_array(tmp_path / "out/masks/a.png")
    assert (found[6:16, 5:25] == mask).all()
    # labelme rounds corners down and draws the outline; here, the centre of a pixel decides.
    assert compute_iou(found == 2, shape_to_mask((50, 60), polygon)) > 0.85


def test_ultralytics_reads_yolo(exported, binary_set, tmp_path):
    utils = pytest.importorskip("ultralytics.data.utils")
    folder, truth, found = exported("yolo"), read_truth(binary_set), {}
    for image in (tmp_path / "images").iterdir():
        text = folder / "labels" / f"{image.stem}.txt"
        result = utils.verify_image_label((str(image), str(text), "", False, 1, 0, 0, False))
        assert result[-1] in ("", None), result[-1]
        height, width = truth[image.stem].shape
        masks = [utils.polygon2mask((height, width), [(part * (width, height)).reshape(-1)]) > 0 for part in result[3]]
        found[image.stem] = unite(masks, (height, width))
    check_agreement(found, truth, 0.97)


def test_supervision_writes_yolo_that_is_read_here(convert_py, binary_set, tmp_path):
    supervision = pytest.importorskip("supervision")
    truth, data, annotations = read_truth(binary_set), {}, {}
    for path in sorted(binary_set.images.iterdir())[-2:]:
        mask = truth[path.stem][None]
        box = supervision.mask_to_xyxy(mask)
        data[str(path)] = np.array(Image.open(path).convert("RGB"))
        annotations[str(path)] = supervision.Detections(xyxy=box, mask=mask, class_id=np.array([0]))
    dataset = supervision.DetectionDataset(["fish"], data, annotations)
    dataset.as_yolo(annotations_directory_path=str(tmp_path / "y/labels"), data_yaml_path=str(tmp_path / "y/data.yaml"))
    words = ("--from", "yolo", "--to", "masks", "--images", binary_set.images, "--empty", "skip")
    end = convert_py(tmp_path / "y", *words, "--save_path", tmp_path / "out")
    assert (end.status, end.err) == (0, [])
    for path in (tmp_path / "out/masks").iterdir():  # supervision leaves half a pixel out at the right and the bottom
        assert compute_iou(read_array(path) > 0, truth[path.stem]) > 0.9


@pytest.mark.parametrize(
    ("name", "shape", "least"), [("cvat", "polygons", 0.98), ("cvat", "masks", 1), ("voc", "polygons", 1)]
)
def test_datumaro_reads_cvat_and_voc(exported, binary_set, tmp_path, name, shape, least):
    pytest.importorskip("datumaro")
    folder = exported(name, shape)
    shutil.copytree(tmp_path / "images", folder / ("images" if name == "cvat" else "JPEGImages"))
    truth = read_truth(binary_set)
    check_agreement(read_with_datumaro(folder, {"voc": "voc_segmentation"}.get(name, name), truth), truth, least)


@pytest.mark.parametrize("name", ["cvat", "voc_segmentation", "coco_instances"])
def test_datumaro_writes_what_is_read_here(convert_py, binary_set, tmp_path, name):
    pytest.importorskip("datumaro")
    from datumaro import Dataset, DatasetItem, Mask
    from datumaro import Image as Picture

    truth, items = read_truth(binary_set), []
    for path in sorted(binary_set.images.iterdir())[::5]:
        mask = truth[path.stem].copy()
        picture = Picture.from_numpy(data=np.zeros((*mask.shape, 3), np.uint8))
        objects = [Mask(mask, label=0, id=1, group=1)]
        items.append(DatasetItem(path.stem, subset="default", media=picture, annotations=objects))
    dataset = Dataset.from_iterable(items, categories=["fish"])
    dataset.export(str(tmp_path / "d"), name, save_media=True)
    source = {"cvat": "default.xml", "coco_instances": "annotations/instances_default.json"}.get(name, "")
    words = ("--from", name.split("_")[0], "--to", "masks", "--images", binary_set.images, "--empty", "skip")
    end = convert_py(tmp_path / "d" / source, *words, "--save_path", tmp_path / "out")
    assert (end.status, end.err) == (0, []), end.err
    written = sorted((tmp_path / "out/masks").iterdir())
    assert len(written) == len(items)
    assert all(((read_array(path) > 0) == truth[path.stem]).all() for path in written)


def test_label_studio_reads_brushes(exported, binary_set):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    folder, truth = exported("label_studio", "masks"), read_truth(binary_set)
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in sorted(tasks, key=lambda task: len(task["annotations"][0]["result"]))[:6]:  # the decoder is slow
        stem = Path(task["data"]["image"].split("=")[-1]).stem
        results = task["annotations"][0]["result"]
        size = truth[stem].shape
        masks = [brush.decode_rle(entry["value"]["rle"]).reshape(*size, 4)[..., 3] > 0 for entry in results]
        assert (unite(masks, size) == truth[stem]).all()


def test_label_studio_converts_polygons(exported, binary_set, tmp_path):
    converter = pytest.importorskip("label_studio_sdk.converter")
    folder = exported("label_studio")
    config = (folder / "label_config.xml").read_text()
    tool = converter.Converter(config, str(folder), download_resources=False)
    tool.convert_to_coco(str(folder / "tasks.json"), str(tmp_path / "coco"), is_dir=False)
    (path,) = (tmp_path / "coco").rglob("*.json")
    path.write_text(path.read_text().replace("?d=", ""))
    check_agreement(read_with_pycocotools(path), read_truth(binary_set), 0.98)


def test_label_studio_accepts_the_labels(exported):
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    for shape in ("polygons", "masks"):
        folder = exported("label_studio", shape)
        labels = interface.LabelInterface((folder / "label_config.xml").read_text())
        for task in json.loads((folder / "tasks.json").read_text()):
            assert labels.validate_annotation(task["annotations"][0])
        shutil.rmtree(folder)


def test_label_studio_writes_what_is_read_here(convert_py, binary_set, tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    truth, tasks = read_truth(binary_set), []
    for path in sorted(binary_set.masks.iterdir())[3:6]:
        annotation = brush.image2annotation(str(path), "horse", "tag", "image")
        image = f"/data/upload/7/0123abcd-{path.stem}.jpg"
        tasks.append({"id": len(tasks) + 1, "data": {"image": image}, "annotations": [annotation]})
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    words = ("--from", "label_studio", "--to", "masks", "--images", binary_set.images, "--empty", "skip")
    end = convert_py(tmp_path / "export.json", *words, "--save_path", tmp_path / "out")
    assert (end.status, end.err) == (0, [])
    written = sorted((tmp_path / "out/masks").iterdir())
    assert len(written) == 3
    assert all(((read_array(path) > 0) == truth[path.stem]).all() for path in written)


def test_isat_reads_its_format(exported, binary_set, tmp_path):
    coco = pytest.importorskip("ISAT.formats.coco")
    tool = coco.COCO()
    tool.read_from_ISAT(str(exported("isat")))
    tool.save_to_coco(str(tmp_path / "isat.json"), cates=tool.cates)
    check_agreement(read_with_pycocotools(tmp_path / "isat.json"), read_truth(binary_set), 0.98)


def test_isat_writes_what_is_read_here(convert_py, binary_set, tmp_path):
    coco = pytest.importorskip("ISAT.formats.coco")
    truth = read_truth(binary_set)
    words = (*binary_set.flags, "--to", "coco", "--images", binary_set.images, "--save_path", tmp_path / "coco")
    convert_py(binary_set.masks, *words)
    content = json.loads((tmp_path / "coco/annotations.json").read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = False  # what ISAT looks for
    (tmp_path / "in.json").write_text(json.dumps(content))
    tool = coco.COCO()
    tool.read_from_coco(str(tmp_path / "in.json"))
    tool.save_to_ISAT(str(tmp_path / "isat"))
    flags = ("--from", "isat", "--to", "masks", "--images", binary_set.images, "--save_path", tmp_path / "out")
    end = convert_py(tmp_path / "isat", *flags)
    assert (end.status, end.err) == (0, [])
    check_agreement({p.stem: read_array(p) > 0 for p in (tmp_path / "out/masks").iterdir()}, truth, 0.98)
