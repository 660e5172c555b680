"""eval.py with volumes: scores in 3D with the spacing of the files, and files that do not belong together."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import sam2unet
from tests.conftest import save, write_classes

nibabel = pytest.importorskip("nibabel")
SHIPPED = Path(nibabel.__file__).parent / "tests/data"  # real files: big-endian, several orientations


def write_nifti(path, values, affine, change=lambda image: image):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(change(nibabel.Nifti1Image(values, affine)), path)


@pytest.fixture(scope="module")
def case():
    """A real scan with axes to the left, anterior and superior, 2 mm; a mask of its bright part, and a moved one."""
    image = nibabel.load(SHIPPED / "anatomical.nii")
    values = np.asarray(image.dataobj)
    mask = values > np.quantile(values, 0.8)
    affine = image.affine @ np.diag([1, 1, 1.5, 1])  # 3 mm between the slices
    return affine, mask, np.roll(mask, 2, axis=0)


@pytest.fixture
def evaluate(eval_py, tmp_path):
    def call(*flags):
        folders = ["--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]
        return eval_py("--dataset_name", "MR", *folders, "--save_dir", tmp_path / "out", "--workers", 1, *flags)

    return call


def read_rows(tmp_path):
    with open(tmp_path / "out/per_image.csv") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_a_case_is_scored_in_3d_with_its_spacing(case, evaluate, tmp_path):
    affine, mask, moved = case
    write_nifti(tmp_path / "masks/a.nii.gz", mask.astype(np.uint8), affine)
    write_nifti(tmp_path / "maps/a.nii", moved.astype(">i2"), affine)
    ended = evaluate("--protocol", "medical")
    assert ended.status == 0, ended.err
    row = read_rows(tmp_path)["a"]
    expected = sam2unet.surface_scores(moved, mask, (2.0, 2.0, 3.0))
    assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=1e-6)
    assert float(row["medical_Dice"]) == pytest.approx(2 * (moved & mask).sum() / (2 * mask.sum()))


def turn(image):
    return image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))


def scale(image):
    image.set_data_dtype(np.uint8)  # stored as whole numbers with a factor
    return image


def test_orientation_and_stored_numbers_do_not_matter(case, evaluate, tmp_path):
    affine, mask, moved = case
    for name in "abcd":
        write_nifti(tmp_path / f"masks/{name}.nii.gz", mask.astype(np.uint8), affine)
    write_nifti(tmp_path / "maps/a.nii.gz", moved.astype(np.uint8), affine)
    write_nifti(tmp_path / "maps/b.nii.gz", moved.astype(np.uint8), affine, turn)
    write_nifti(tmp_path / "maps/c.nii.gz", np.where(moved, 0.7, 0.2).astype(np.float32), affine, scale)
    write_nifti(tmp_path / "maps/d.nii.gz", moved[..., None].astype(np.uint8) * 255, affine)
    assert evaluate("--protocol", "surface").status == 0
    rows = [{**row, "image": ""} for row in read_rows(tmp_path).values()]
    assert len(rows) == 4 and all(row == rows[0] for row in rows)


def test_classes_of_a_volume(case, evaluate, tmp_path):
    affine, mask, moved = case
    labels = [np.where(np.arange(array.shape[2]) < 12, array, 2 * array) for array in (mask, moved)]
    for folder, values in zip(("masks", "maps"), labels, strict=True):
        write_nifti(tmp_path / folder / "a.nii.gz", values.astype(np.int16), affine)
    ended = evaluate("--protocol", "medical", "--classes", write_classes(tmp_path / "classes.yaml"))
    assert ended.status == 0, ended.err
    table = json.loads((tmp_path / "out/results.json").read_text())["datasets"]["MR"][""]
    for index, name in ((1, "left"), (2, "right")):
        pair = [values == index for values in labels[::-1]]
        expected = sam2unet.surface_scores(*pair, (2.0, 2.0, 3.0))
        assert table[f"HD95_{name}"] == pytest.approx(expected["HD95"], rel=1e-6)
        assert table[f"Dice_{name}"] == pytest.approx(2 * (pair[0] & pair[1]).sum() / (pair[0].sum() + pair[1].sum()))


def test_arrays_and_values_that_are_foreground(case, evaluate, tmp_path):
    _, mask, moved = case
    for folder, values in (("masks", mask), ("maps", moved)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.where(values, 7, 0) + (np.arange(25) == 0) * 3)
    assert evaluate("--protocol", "medical").is_refusal("masks are not 0/255: a.npy (values found: 0, 3, 7, 10;")
    ended = evaluate("--protocol", "medical", "--foreground", 7, "--spacing", 1, 2, 3)
    assert ended.status == 0, ended.err
    pair = moved.copy(), mask.copy()
    for array in pair:
        array[..., 0] = False
    assert float(read_rows(tmp_path)["a"]["HD95"]) == sam2unet.surface_scores(*pair, (1, 2, 3))["HD95"]


def shift(affine):
    return affine + np.array([[0, 0, 0, 1.0], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize(
    "write, flags, message",
    [
        (lambda path, mask, affine: write_nifti(path, mask, shift(affine)), [], "has another affine than"),
        (
            lambda path, mask, affine: write_nifti(path, mask[:-1], affine),
            [],
            "has 32x41x25 voxels, its mask 33x41x25",
        ),
        (lambda path, mask, affine: write_nifti(path, np.stack([mask] * 2, -1), affine), [], "has 4 axes (33x41x25x2)"),
        (lambda path, mask, affine: path.write_bytes(b"\x1f\x8b" + bytes(500)), [], "not a volume or damaged"),
        (lambda path, mask, affine: np.save(path.with_name("a.npy"), mask), [], "have different formats"),
        (lambda path, mask, affine: write_nifti(path, mask, affine), ["--spacing", 2], "has a spacing of its own"),
        (lambda path, mask, affine: write_nifti(path, mask, affine), ["--protocol", "all"], "is a volume, which needs"),
        (
            lambda path, mask, affine: write_nifti(path, mask, affine),
            ["--protocol", "calibration"],
            "is a volume, which needs",
        ),
    ],
)
def test_files_that_cannot_be_scored_are_refused(write, flags, message, case, evaluate, tmp_path):
    affine, mask, _ = case
    write_nifti(tmp_path / "masks/a.nii.gz", mask.astype(np.uint8), affine)
    (tmp_path / "maps").mkdir()
    write(tmp_path / "maps/a.nii.gz", mask.astype(np.uint8), affine)
    assert evaluate("--protocol", "medical", *flags).is_refusal(message)
    assert not list((tmp_path / "out").glob("*.csv"))


def test_images_and_volumes_of_one_name_are_refused(case, evaluate, tmp_path):
    affine, mask, _ = case
    for folder in ("masks", "maps"):
        write_nifti(tmp_path / folder / "a.nii.gz", mask.astype(np.uint8), affine)
    write_nifti(tmp_path / "maps/a.nii", mask.astype(np.uint8), affine)
    assert evaluate("--protocol", "medical").is_refusal("files with the same stem in")


def test_arrays_beside_images_are_left_out(eval_py, tmp_path):
    for folder in ("maps", "masks"):
        save(tmp_path / folder / "a.png", np.diag([255] * 9).astype(np.uint8))
        np.save(tmp_path / folder / "a.npy", np.zeros((2, 3, 4)))
    ended = eval_py("--dataset_name", "A", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks")
    assert ended.status == 0 and " 1.000" in ended.out, ended.err


def test_a_missing_volume_is_background_whatever_its_value(evaluate, tmp_path):
    """The value 0 is not the background here: with classes it is none of them, and for --foreground 0 the object."""
    labels = np.ones((3, 4, 5), np.uint8)
    labels[1, 1:3, 1:3] = 2
    (tmp_path / "maps").mkdir()
    (tmp_path / "masks").mkdir()
    for folder, name in (("masks", "a"), ("masks", "b"), ("maps", "b")):
        np.save(tmp_path / folder / f"{name}.npy", labels)
    file = tmp_path / "classes.yaml"
    file.write_text("classes:\n  - {name: rest, value: 1}\n  - {name: liver, value: 2}\n")
    ended = evaluate("--classes", file, "--missing", "zero")
    assert ended.status == 0, ended.err
    with open(tmp_path / "out/per_image.csv") as table:
        rows = list(csv.DictReader(table))
    assert [(r["image"], r["class"], float(r["IoU"])) for r in rows] == [
        ("a", "rest", 56 / 60),
        ("a", "liver", 0),
        ("b", "rest", 1),
        ("b", "liver", 1),
    ]
    for folder in ("masks", "maps"):
        for path in (tmp_path / folder).iterdir():
            np.save(path, labels - 1)
    ended = evaluate("--protocol", "medical", "--foreground", 0, "--missing", "zero")
    assert ended.status == 0, ended.err
    assert float(read_rows(tmp_path)["a"]["medical_Dice"]) == 0


def test_a_report_of_classes_shows_slices_of_volumes_only(evaluate, tmp_path):
    for folder in ("maps", "masks"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3)
    flags = ["--classes", write_classes(tmp_path / "classes.yaml"), "--report"]
    assert evaluate(*flags).is_refusal("has volumes, which --report cannot show; give --slices")
    assert not (tmp_path / "out").exists()
    assert evaluate(*flags, "--slices").status == 0 and (tmp_path / "out/report.html").is_file()
