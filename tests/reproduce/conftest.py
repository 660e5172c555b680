"""A study of two seeds on a few real images, from data to certificate; half of the tests only read it."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image


class SmallStudy(NamedTuple):
    config: Path
    data: Path
    weights: Path
    folder: Path  # of the runs

    @property
    def flags(self) -> list[object]:
        return [self.config, "--data_root", self.data, "--hiera_path", self.weights, "--seeds", 2, "--workers", 0]


def copy_small(source: Path, stem: str, target: Path) -> None:
    """Copies an image and its mask at a quarter of their size."""
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True, exist_ok=True)
        with Image.open(next((source / kind).glob(f"{stem}.*"))) as image:
            size = (image.width // 4, image.height // 4)
            image.resize(size, Image.Resampling.NEAREST).save(target / kind / f"{stem}.png")


@pytest.fixture(scope="session")
def study_data(shared, sam2_micro, make_once) -> Path:
    """Two sets to train on and two to test. COD10K has a training image with equal pixels, and one that was resized."""

    def write(root: Path) -> None:
        horses = shared / "data/horses"
        train, test = (sorted(path.stem for path in (horses / part / "images").iterdir()) for part in ("train", "test"))
        for part, stems, name in (
            ("train", train[:3], "A-train"),
            ("train", train[3:6], "B-train"),
            ("test", test[:3], "CAMO"),
            ("test", test[3:5], "COD10K"),
        ):
            for stem in stems:
                copy_small(horses / part, stem, root / name)
        for name, stem, scale in (("A-train", train[1], 1), ("B-train", train[4], 0.8)):
            for kind, suffix in (("images", "bmp"), ("masks", "png")):
                with Image.open(root / name / kind / f"{stem}.png") as image:
                    size = [round(scale * side) for side in image.size]
                    copy = image.resize(size, Image.Resampling.NEAREST)
                copy.convert("RGB").save(root / "COD10K" / kind / f"copy{scale}.{suffix}")
        shutil.copy(sam2_micro, root)

    return make_once("study_data", write)


@pytest.fixture(scope="session")
def finished(start, study_data, make_once) -> SmallStudy:
    """The study, in one go. Tests must not change its files."""

    def write(folder: Path) -> None:
        study = make_study(study_data, folder)
        study.config.write_text(
            "encoder: micro\nsize: 64\nepoch: 2\nbatch_size: 3\ntrain: [A-train, B-train]\ntest: [CAMO, COD10K]\n"
            "protocol: camouflaged\nexpect: sam2-unet\n"
        )
        ended = start("tests/reproduce/in_process.py", *study.flags, "--save_path", study.folder).finish()
        assert ended.returncode == 0, ended.stderr
        (folder / "err").write_text(ended.stderr)

    return make_study(study_data, make_once("study", write))


def make_study(data: Path, folder: Path) -> SmallStudy:
    return SmallStudy(folder / "small.yaml", data, data / "sam2_hiera_micro.pt", folder / "run")


@pytest.fixture
def copied(finished, tmp_path) -> SmallStudy:
    """A copy of the study that a test may change."""
    data, folder = (shutil.copytree(path, tmp_path / path.name) for path in (finished.data, finished.folder))
    return finished._replace(data=data, folder=folder, weights=data / finished.weights.name)
