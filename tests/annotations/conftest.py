"""Real masks with their images, and conversions in this process."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.annotations.small_files import write
from tests.conftest import save

if not all(map(importlib.util.find_spec, ("pycocotools", "defusedxml"))):  # pip install "sam2unet[annotations]"
    collect_ignore_glob = ["test_*.py"]

# Names in each folder of the data: many small objects, holes, thin lines, large smooth outlines.
NAMES = {
    "nuclei": 2,
    "horses": 3,
    "polypgen_c1": 2,
    "tile_defects": 6,
    "underwater": 2,
}
CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()


class MaskSet(NamedTuple):
    images: Path
    masks: Path
    flags: tuple[object, ...]  # of the script: what the masks are


def link_pairs(target: Path, data: Path, counts: dict[str, int]) -> None:
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True)
        for name, count in counts.items():
            for path in sorted((data / name / "test" / kind).iterdir())[:count]:
                os.symlink(path, target / kind / f"{name}_{path.name}")


@pytest.fixture(scope="session")
def binary_set(shared, make_once) -> MaskSet:
    folder = (
        make_once("annotations_binary", lambda target: link_pairs(target / "data", shared / "data", NAMES)) / "data"
    )
    return MaskSet(folder / "images", folder / "masks", ("--from", "masks"))


@pytest.fixture(scope="session")
def class_set(shared, make_once) -> MaskSet:
    def write(target: Path) -> None:
        link_pairs(target / "data", shared / "data", {"camvid": 2})
        rows = [f"  - {{name: {name}, value: {value}}}\n" for value, name in enumerate(CAMVID)]
        (target / "camvid.yaml").write_text("classes:\n" + "".join(rows) + "ignore: 11\n")

    folder = make_once("annotations_classes", write)
    flags = ("--from", "classes", "--classes", folder / "camvid.yaml")
    return MaskSet(folder / "data/images", folder / "data/masks", flags)


@pytest.fixture
def convert_py(run_py) -> Callable:
    """scripts/convert_annotations.py in this process: `convert_py(source, "--from", "coco", ...)`."""
    return lambda *words: run_py("scripts/convert_annotations.py", *words)


@pytest.fixture
def read(convert_py, tmp_path):
    """`read("coco", path)` is the mask of its image, with the values of the classes, and the end of the script."""
    save(tmp_path / "images/a.jpg", np.zeros((10, 20, 3), np.uint8))
    classes = "classes:\n  - {name: background, value: 0}\n  - {name: cat, value: 1}\n  - {name: dog, value: 2}\n"
    write(tmp_path / "classes.yaml", classes)

    def call(name, source, *flags):
        words = ("--from", name, "--to", "classes", "--images", tmp_path / "images", "--save_path", tmp_path / "out")
        end = convert_py(source, *words, "--classes", tmp_path / "classes.yaml", *flags)
        path = tmp_path / "out/masks/a.png"
        return end, read_array(path) if path.exists() else None

    return call


def read_array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def compute_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


def count_holes(mask: np.ndarray) -> int:
    """The number of background regions, 4-connected, that do not touch the border."""
    from scipy import ndimage

    return ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
