"""Small benchmarks in the layouts in which people download them, with real images and small counts."""

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

CAMO = ("camourflage_00001", "camourflage_00002")
CAM = ("COD10K-CAM-1-Aquatic-1", "COD10K-CAM-2-Terrestrial-9", "COD10K-CAM-3-Flying-7")
NON_CAM = ("COD10K-NonCAM-4-Amphibian-1", "COD10K-NonCAM-5-Other-2")


class Part(NamedTuple):
    """Folders of a layout, and the data set that some of their stems belong to."""

    name: str
    images: str
    masks: str
    stems: tuple[str, ...]  # of the data set
    others: tuple[str, ...] = ()  # further stems in the same folders, which do not belong to it
    image_type: str = ".jpg"
    mask_type: str = ".png"


def number(count: int, start: int = 1) -> tuple[str, ...]:
    return tuple(f"{index:04d}" for index in range(start, start + count))


def list_test_sets(images: str, masks: str, image_type: str = ".jpg", **counts: int) -> list[Part]:
    return [
        Part(
            name.replace("_", "-"),
            f"TestDataset/{name.replace('_', '-')}/{images}",
            f"TestDataset/{name.replace('_', '-')}/{masks}",
            number(count),
            (),
            image_type,
        )
        for name, count in counts.items()
    ]


def list_splits(name: str, train: tuple[str, str], test: tuple[str, str], counts: tuple[int, int]) -> list[Part]:
    """A training set and a test set."""
    (train_images, train_masks), (test_images, test_masks) = train, test
    return [
        Part(f"{name}-train", train_images, train_masks, number(counts[0])),
        Part(name, test_images, test_masks, number(counts[1], 50)),
    ]


# Each row of the specification: the folder names are those of the downloads.
CASES: dict[str, list[Part]] = {
    "COD": [
        Part("COD10K-train", "TrainDataset/Imgs", "TrainDataset/GT", CAM, CAMO),
        Part("CAMO-train", "TrainDataset/Imgs", "TrainDataset/GT", CAMO, CAM),
        *list_test_sets("Imgs", "GT", CAMO=3, CHAMELEON=2, COD10K=4, NC4K=5),
    ],
    "COD of SINet": [
        Part("COD10K-train", "TrainValDataset/Imgs", "TrainValDataset/GT", CAM, CAMO),
        Part("CAMO-train", "TrainValDataset/Imgs", "TrainValDataset/GT", CAMO, CAM),
    ],
    "COD10K-v3": [
        Part("COD10K-train", "COD10K-v3/Train/Image", "COD10K-v3/Train/GT_Object", CAM, NON_CAM),
        Part("COD10K", "COD10K-v3/Test/Image", "COD10K-v3/Test/GT_Object", CAM[:2], NON_CAM),
    ],
    "CAMO-V.1.0-CVIU2019": [
        Part("CAMO-train", "CAMO-V.1.0-CVIU2019/Images/Train", "CAMO-V.1.0-CVIU2019/GT", number(3)),
        Part("CAMO", "CAMO-V.1.0-CVIU2019/Images/Test", "CAMO-V.1.0-CVIU2019/GT", number(2, 50)),
    ],
    "DUTS": [
        Part("DUTS-TR", "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", number(3)),
        Part("DUTS-TE", "DUTS-TE/DUTS-TE-Image", "DUTS-TE-Mask", number(2)),
    ],
    "OMRON": [
        Part("DUT-OMRON", "DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG/pixelwiseGT-new-PNG", number(3))
    ],
    "HKU-IS": [Part("HKU-IS", "imgs", "gt", number(3), (), ".png")],
    "ECSSD": [Part("ECSSD", "images", "ground_truth_mask", number(3))],
    "pascal": [Part("PASCAL-S", "datasets/imgs/pascal", "datasets/masks/pascal", number(3))],
    "PASCAL-S": [Part("PASCAL-S", "Imgs", "GT", number(2))],
    "SALOD": [
        Part("DUTS-TE", "DUTS-TE/images", "DUTS-TE/segmentations", number(3), number(2, 20)),  # with train.txt
        Part("ECSSD", "ECSSD/images", "ECSSD/mask", number(2)),
    ],
    "MAS3K": list_splits("MAS3K", ("train/Image", "train/Mask"), ("test/Image", "test/Masks"), (4, 3)),
    "RMAS": list_splits("RMAS", ("train/img", "train/label"), ("test/img", "test/label"), (4, 3)),
    "MSD": list_splits("MSD", ("train/image", "train/mask"), ("test/image", "test/mask"), (4, 3)),
    "PMD": list_splits("PMD", ("train/image", "train/mask"), ("test/image", "test/mask"), (4, 3)),
    "polyp": [
        Part("PraNet-train", "TrainDataset/images", "TrainDataset/masks", number(4), (), ".png"),
        *list_test_sets("images", "masks", ".png", CVC_300=2, CVC_ClinicDB=3, CVC_ColonDB=2, Kvasir=3),
        Part(
            "ETIS", "TestDataset/ETIS-LaribPolypDB/images", "TestDataset/ETIS-LaribPolypDB/masks", number(2), (), ".png"
        ),
    ],
    "older polyp": [Part("PraNet-train", "TrainDataset/image", "TrainDataset/mask", number(4), (), ".png")],
    "DIS5K": [
        Part(name, f"DIS5K/{name}/im", f"DIS5K/{name}/gt", number(2 + index % 2))
        for index, name in enumerate(("DIS-TR", "DIS-VD", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4"))
    ],
    "EORSSD": list_splits("EORSSD", ("train-images", "train-labels"), ("test-images", "test-labels"), (4, 3)),
    "rearranged EORSSD": list_splits(
        "EORSSD", ("EORSSD/train/image", "EORSSD/train/GT"), ("EORSSD/test/image", "EORSSD/test/GT"), (4, 3)
    ),
    "ORSI-4199": list_splits("ORSI-4199", ("trainset/images", "trainset/gt"), ("testset/images", "testset/gt"), (4, 3)),
    "ORSI4199": list_splits("ORSI-4199", ("train-images", "train-labels"), ("test-images", "test-labels"), (4, 3)),
}
EXTRA_FILES = {  # what else a layout has
    "COD": ["TrainDataset/Edge/x.png", "TrainDataset/Instance/x.png"],
    "COD10K-v3": ["COD10K-v3/Train/GT_Edge/x.png", "COD10K-v3/Train/CAM_Instance_Train.txt", "COD10K-v3/Info/CAM.txt"],
    "MSD": ["train/edge/x.png"],
}


@cache
def make_pair(shared: Path, index: int, image_type: str, mask_type: str) -> tuple[bytes, bytes]:
    """A real photograph and its mask, 64 pixels wide; JPEG masks have grey fringes."""
    folder = shared / "data/horses/train"
    stem = sorted(path.stem for path in (folder / "images").iterdir())[index % 20]
    contents = []
    for path, suffix in ((folder / f"images/{stem}.jpg", image_type), (folder / f"masks/{stem}.png", mask_type)):
        with Image.open(path) as image:
            buffer = io.BytesIO()
            small = image.resize((64, 64), Image.Resampling.NEAREST)
            small.save(buffer, {".jpg": "JPEG", ".png": "PNG"}[suffix])
            contents.append(buffer.getvalue())
    return contents[0], contents[1]


def list_contents(shared: Path, case: str) -> dict[str, bytes]:
    """The files of a layout, by their path in the downloads."""
    files = {}
    for part in CASES[case]:
        for stem in (*part.stems, *part.others):
            index = sum(map(ord, stem + part.name))
            image, mask = make_pair(shared, index, part.image_type, part.mask_type)
            files.setdefault(f"{part.images}/{stem}{part.image_type}", image)
            files.setdefault(f"{part.masks}/{stem}{part.mask_type}", mask)
    for name in EXTRA_FILES.get(case, ()):
        files[name] = make_pair(shared, 0, ".jpg", ".png")[1] if name.endswith(".png") else b"COD10K-CAM-1\n"
    if case == "SALOD":
        files["DUTS-TE/train.txt"] = "".join(f"{stem}.jpg\n" for stem in number(3)).encode()
    if case == "MSD":
        files["train.txt"] = "\n".join(number(4)).encode()
        files["test.txt"] = "\n".join(number(3, 50)).encode()
    return files


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_zip(path: Path, files: Mapping[str, bytes], nested: bool = False) -> None:
    """A ZIP file as a Mac makes it. `nested`: all files are in a folder with the name of the ZIP file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            name = f"{path.stem}/{name}" if nested else name
            file.writestr(name, content)
            folder, _, base = name.rpartition("/")
            file.writestr(f"__MACOSX/{folder}/._{base}", b"\0\5\26\7")
            if f"{folder}/.DS_Store" not in file.NameToInfo:
                file.writestr(f"{folder}/.DS_Store", b"Bud1")


def add_junk(folder: Path) -> None:
    """The files that systems leave in folders."""
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        (path / ".DS_Store").write_bytes(b"Bud1")
        (path / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (path / "._0001.jpg").write_bytes(b"\0\5\26\7")
