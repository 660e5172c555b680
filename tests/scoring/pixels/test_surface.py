"""Distances between surfaces: the numbers of three libraries, and the cases that they treat differently."""

import csv
import importlib
import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import sam2unet
from sam2unet.errors import UserError
from sam2unet.scoring.pixels import surface
from sam2unet.scoring.pixels.medical_scores import SurfaceOptions, score_medical
from tests.conftest import save, write_classes

# column -> library, its number, and the relative tolerance. The numbers of MONAI are float32.
SOURCES = {
    "HD": ("medpy", "hd", 1e-6),
    "HD95": ("monai", "hausdorff_95", 1e-5),
    "HD95_pooled": ("medpy", "hd95", 1e-6),
    "HD95_surface": ("deepmind", "hausdorff_95", 1e-6),
    "ASSD": ("medpy", "assd", 1e-6),
    "NSD": ("deepmind", "surface_dice", 1e-6),
}
MONAI = {"HD": "hausdorff_100", "ASSD": "average_symmetric", "NSD": "surface_dice_subvoxels"}


@pytest.fixture(params=["nearest", "nearest_numba"])
def nearest(request, monkeypatch):
    if request.param == "nearest_numba":
        pytest.importorskip("numba")
    module = importlib.import_module(f"sam2unet.scoring.pixels.{request.param}")
    monkeypatch.setattr(surface, "nearest", module)


@pytest.fixture(scope="module")
def golden(shared):
    """The stored pairs: prediction, mask, and the numbers of each library."""
    file = np.load(shared / "reference/surface_distances.npz")
    cases, pairs = json.loads(str(file["meta"])), []
    for name, case in cases["cases"].items():
        bits = (np.unpackbits(file[f"{name}/{part}"])[: math.prod(case["shape"])] for part in ("pred", "gt"))
        pairs.append((*(array.reshape(case["shape"]).astype(bool) for array in bits), case))
    for name, case in cases["real"].items():
        files = (shared / f"data/maps_sod_dss/{kind}/{name}.png" for kind in ("preds", "masks"))
        pairs.append((*(np.asarray(Image.open(path).convert("L")) > 128 for path in files), case))
    return pairs


def test_each_column_is_the_number_of_its_library(golden, nearest):
    full = [pair for pair in golden if pair[0].any() and pair[1].any()]
    assert len(full) == 21
    for prediction, mask, case in full:
        scores = sam2unet.surface_scores(prediction, mask, case["spacing"], case["tolerance"])
        for column, (library, key, bound) in SOURCES.items():
            assert scores[column] == pytest.approx(case["values"][library][key], rel=bound, abs=1e-12), (column, case)
        for column, key in MONAI.items():
            assert scores[column] == pytest.approx(case["values"]["monai"][key], rel=1e-5, abs=1e-12), (column, case)


def draw_pair(shape, seed=0, smooth=2.0):
    rng = np.random.default_rng(seed)
    fields = (ndimage.gaussian_filter(rng.standard_normal(shape), smooth) for _ in range(2))
    return [field > np.quantile(field, 0.8) for field in fields]


@pytest.mark.parametrize("shape, spacing", [((40, 31), (0.7, 1.3)), ((9, 20, 17), (2.5, 0.8, 0.6)), ((1, 30), (1, 3))])
def test_distances_are_those_of_scipy(shape, spacing, nearest):
    masks = draw_pair(shape)
    scores = sam2unet.surface_scores(*masks, spacing, 1.5)
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
    far = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    distances = [far[1][borders[0]], far[0][borders[1]]]
    assert scores["HD"] == max(map(np.max, distances))
    assert scores["HD95"] == max(np.percentile(part, 95) for part in distances)
    assert scores["ASSD"] == pytest.approx(np.concatenate(distances).mean(), rel=1e-12)
    assert sam2unet.surface_scores(*masks[::-1], spacing, 1.5) == pytest.approx(scores, rel=1e-12)


def test_a_distance_equal_to_the_tolerance_counts_everywhere(nearest):
    """Positions such as 7 * 0.1 are rounded; a difference of positions would be above or below 0.3 by the place."""
    for place in range(12):
        prediction, mask = np.zeros((2, 40, 40), bool)
        prediction[place : place + 9, 5:20], mask[place : place + 9, 8:23] = True, True
        scores = sam2unet.surface_scores(prediction, mask, (0.1, 0.1), 3 * 0.1)
        assert scores["NSD"] == 1 and scores["HD"] == 3 * 0.1


@pytest.mark.parametrize("shape", [(60, 80), (333, 210)])
def test_boundary_iou_follows_its_definition(shape):
    def cut_band(mask):
        width = max(1, round(0.02 * math.hypot(*mask.shape)))
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        return mask & (inner == 0)

    masks = draw_pair(shape, smooth=12)
    masks[0][0, :40] = True  # touches the edge
    bands = [cut_band(mask) for mask in masks]
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert sam2unet.surface_scores(*masks)["BoundaryIoU"] == pytest.approx(expected, rel=1e-12)


def test_a_volume_of_equal_slices_has_the_distances_of_a_slice():
    masks = draw_pair((40, 50))
    flat = sam2unet.surface_scores(*masks, (0.7, 1.3), 2.0)
    volume = sam2unet.surface_scores(*(np.repeat(mask[None], 9, axis=0) for mask in masks), (5.0, 0.7, 1.3), 2.0)
    assert volume["HD"] == pytest.approx(flat["HD"], rel=1e-12)
    full = np.ones((4, 5, 6), bool)
    assert sam2unet.surface_scores(full, full, (1, 1, 1)) == {
        key: float(key in surface.SHARES) for key in (*surface.DISTANCES, *surface.SHARES)
    }


def test_a_surface_has_the_area_of_its_solid():
    sizes = surface.measure_elements((1.0, 1.0, 1.0))
    ball = np.linalg.norm(np.indices((61, 61, 61)) - 30, axis=0) <= 27
    area = sizes[surface.encode_neighbours(ball)].sum()
    assert area == pytest.approx(4 * math.pi * 27.5**2, rel=0.1)  # voxels make a ball rough
    assert np.array_equal(sizes, sizes[::-1])  # which side is the object does not matter


EMPTY = np.zeros((6, 8), bool)
SPOT = EMPTY.copy()
SPOT[2, 3] = True


@pytest.mark.parametrize(
    "rule, one, both",
    [
        ("worst", (0, 20.0, 0), (math.nan,) * 3),
        ("skip", (math.nan,) * 3, (math.nan,) * 3),
        ("perfect", (0, 20.0, 0), (1, 0, 1)),
    ],
)
def test_empty_masks_have_the_scores_of_the_rule(rule, one, both):
    how = SurfaceOptions((2.0, 2.0), 1.0, rule)
    for masks, expected in (((EMPTY, SPOT), one), ((SPOT, EMPTY), one), ((EMPTY, EMPTY), both)):
        scores = score_medical(*masks, how)
        for keys, value in zip(
            (("medical_Dice", "medical_IoU"), surface.DISTANCES, surface.SHARES), expected, strict=True
        ):
            assert [scores[key] for key in keys] == pytest.approx([value] * len(keys), nan_ok=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((SPOT, SPOT[:, :5]), "surfaces need two bool arrays of one shape"),
        ((SPOT.astype(np.uint8), SPOT), "surfaces need two bool arrays of one shape"),
        ((SPOT, SPOT, (1.0, 0.0)), "spacing is .*; it must be 2 numbers above 0"),
        ((SPOT[None], SPOT[None]), "spacing is .*; it must be 3 numbers above 0"),
        ((SPOT, SPOT, (1, 1), -1.0), "tolerance is -1.0; it must be 0 or more"),
    ],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        sam2unet.surface_scores(*arguments)


@pytest.fixture
def scans(tmp_path):
    """Flags for two maps of one method: a shifted square, and an image whose mask is empty; the third has neither."""
    masks = np.zeros((3, 20, 30), np.uint8)
    maps = masks.copy()
    masks[0, 5:12, 6:16], maps[0, 5:12, 8:18], maps[1, 3:6, 3:6] = 255, 200, 255
    maps[0, 0, 0] = 128  # not above the threshold
    for i in range(3):
        save(tmp_path / f"masks/{i}.png", masks[i])
        save(tmp_path / f"maps/{i}.png", maps[i])
    return ["--dataset_name", "CT", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]


def test_eval_py_prints_the_columns_of_medical_papers(scans, tmp_path, eval_py):
    ended = eval_py(
        *scans, "--protocol", "medical", "--spacing", 0.5, 2, "--nsd_tolerance", 4, "--save_dir", tmp_path / "out"
    )
    assert ended.status == 0, ended.err
    diagonal = math.hypot(20 * 0.5, 30 * 2)
    printed = dict(zip(*(line.split() for line in ended.out.splitlines()[:2]), strict=True))
    assert float(printed["Dice"]) == pytest.approx(0.8 / 2) and float(printed["HD95"]) == pytest.approx(
        (4 + diagonal) / 2, abs=0.006
    )
    assert printed["NSD"] == "0.500"
    assert "CT: either the mask or the map is empty in 1 pairs: 1; these pairs have the score 0" in "\n".join(ended.err)
    assert "CT: 1 masks are empty, and so are their maps: 2; these pairs are left out" in "\n".join(ended.err)
    with open(tmp_path / "out/per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["HD"] for row in rows] == ["4.0", repr(diagonal), ""]
    assert json.loads((tmp_path / "out/results.json").read_text())["files"]["CT"][""]["undefined"]["HD95"] == 1
    again = eval_py("--from", tmp_path / "out/per_image.csv", "--protocol", "medical")
    assert again.out.splitlines()[:2] == ended.out.splitlines()[:2]


def test_the_flags_need_columns_that_use_them(scans, eval_py):
    for flags in (["--spacing", 2], ["--empty_masks", "skip"], ["--nsd_tolerance", 3]):
        assert eval_py(*scans, *flags).is_refusal("--spacing, --nsd_tolerance and --empty_masks need a --protocol")
    assert eval_py(*scans, "--protocol", "medical", "--spacing", -1).is_refusal("spacing is -1.0; it must be")
    assert eval_py(*scans, "--protocol", "medical", "--spacing", 1e200).is_refusal("spacing is 1e+200; it must be from")
    assert eval_py(*scans, "--protocol", "medical", "--nsd_tolerance", "nan").is_refusal("nsd_tolerance is nan")
    assert eval_py(*scans, "--protocol", "surface", "--verify", 1).is_refusal("--verify does not go with")


def test_each_class_is_scored_like_a_mask_of_its_own(tmp_path, eval_py):
    rng = np.random.default_rng(0)
    file, masks, maps = tmp_path / "classes.yaml", [], []
    write_classes(file)
    for i in range(3):
        pair = [
            sum(np.roll(cv2.resize(rng.random((4, 5)), (40, 30)) > cut, i, 0) for cut in (0.5, 0.8)) for _ in range(2)
        ]
        mask = np.where(rng.random((30, 40)) < 0.02, 255, pair[0])
        save(tmp_path / f"masks/{i}.png", mask.astype(np.uint8))
        save(tmp_path / f"maps/{i}.png", pair[1].astype(np.uint8))
        masks.append(mask)
        maps.append(pair[1])
    flags = [
        "--dataset_name",
        "CT",
        "--pred_path",
        tmp_path / "maps",
        "--gt_path",
        tmp_path / "masks",
        "--classes",
        file,
    ]
    ended = eval_py(*flags, "--protocol", "medical", "--spacing", 2, 1, "--save_dir", tmp_path / "out", "--report")
    assert ended.status == 0, ended.err
    names = [line.split()[1] for line in ended.out.split("\n\n")[1].splitlines()[1:]]
    with open(tmp_path / "out/per_image.csv") as csv_file:
        rows = list(csv.DictReader(csv_file))
    for row in rows:
        i, c = int(row["image"]), names.index(row["class"])
        pair = (maps[i] == c) & (masks[i] != 255), masks[i] == c
        for key, value in sam2unet.surface_scores(*pair, (2, 1)).items():
            assert float(row[key] or "nan") == pytest.approx(value, rel=1e-12, nan_ok=True)
    table = json.loads((tmp_path / "out/results.json").read_text())["datasets"]["CT"][""]
    for key in ("HD95", "NSD"):
        means = [np.nanmean([float(row[key] or "nan") for row in rows if row["class"] == name]) for name in names]
        assert [table[f"{key}_{name}"] for name in names] == pytest.approx(means)
        assert table[f"m{key}_fg"] == pytest.approx(np.mean(means[1:]))
    assert f"HD95_{names[1]}" in (tmp_path / "out/report.html").read_text()
