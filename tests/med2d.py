"""Small data sets, as folders or as archives, in the layout of SA-Med2D-20M or with plain names."""

import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

DATASETS = ("ct_00--AMOS", "mr_00--BraTS", "ct_00--Brain_PTM")  # the last has a known fault


def write_med2d(root: Path, cases: int = 4, slices: int = 2, masks: int = 2, side: int = 48) -> Path:
    """Writes `root`/SAMed2Dv1 with random ellipses. Returns this folder."""
    rng = np.random.default_rng(0)
    folder = root / "SAMed2Dv1"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    y, x = np.mgrid[:side, :side]
    for dataset in DATASETS:
        for case in range(cases):
            for index in range(slices):
                name = f"{dataset}--Case_{case:03}--x_{index:04}"
                pixels = rng.integers(0, 60, (side, side, 3), np.uint8)
                for number in range(masks):
                    cx, cy = rng.integers(12, side - 12, 2)
                    mask = ((x - cx) / 9) ** 2 + ((y - cy) / 6) ** 2 < 1
                    pixels[mask] += np.uint8(90)
                    Image.fromarray(mask.astype(np.uint8)).save(folder / f"masks/{name}--{number:04}_000.png")
                Image.fromarray(pixels).save(folder / f"images/{name}.png")
    return folder


def write_pairs(folder: Path, names: Iterable[str], side: int = 20) -> Path:
    """Writes an image and a 0/255 mask for each name into `folder`/images and `folder`/masks. Returns `folder`."""
    mask = np.zeros((side, side), np.uint8)
    mask[5:12, 5:12] = 255
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(mask).save(folder / f"{kind}/{name}.png")
    return folder


def pack_zip(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Packs a folder with its own name into a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def split_zip(path: Path, target: Path, size: str = "64k") -> Path:
    """Splits a zip with the program `zip`, as the published archive is. Returns the last part."""
    subprocess.run(["zip", "-q", "-s", size, str(path), "--out", str(target)], check=True)
    return target
