"""Every number and curve of one image against py-sod-metrics, and the mirror set against its definition read literally.

Random pairs are named by their seed, so that `random_pair(seed)` makes one again.
"""

import importlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from sam2unet.scoring.pixels import histograms, weighted_f
from sam2unet.scoring.pixels import kernels as numpy_kernels
from sam2unet.scoring.pixels.histograms import f_measure
from sam2unet.scoring.pixels.image_scores import score_image
from sam2unet.scoring.pixels.library import score_by_library
from sam2unet.scoring.pixels.mirror_scores import score_mirror

BOUNDS = {"Fw": 1e-5}  # where several foreground pixels are equally near, the choice among them is open
BOUND = 1e-6


class Pair(NamedTuple):
    name: str
    pred: np.ndarray
    mask: np.ndarray


def grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None, path
    return image


def to_levels(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Blurred noise in [0, 1]."""
    noise = cv2.GaussianBlur(rng.random(shape, dtype=np.float32), (0, 0), sigma)
    return (noise - noise.min()) / (np.ptp(noise) or 1)


def real_pairs(data: Path) -> Iterator[Pair]:
    for folder, step in (("maps_sod_dss", 23), ("maps_cod10k_sinet", 1)):
        for path in sorted((data / folder / "masks").iterdir())[::step]:
            yield Pair(f"{folder}/{path.name}", grey(data / folder / "preds" / path.name), grey(path))
    for folder, count in (("polypgen_c1", 4), ("horses", 8), ("tile_defects", 8), ("nuclei", 5), ("underwater", 2)):
        paths = sorted((data / folder / "test/masks").iterdir())
        for i, path in enumerate(paths[:: len(paths) // count][:count]):
            rng, mask = np.random.default_rng(i), grey(path)
            moved = np.roll(mask, rng.integers(-9, 10, 2), (0, 1))
            blurred = cv2.GaussianBlur(moved, (0, 0), rng.uniform(1, 12))
            pred = to_levels(blurred * rng.uniform(0.4, 1) + rng.normal(0, rng.uniform(0, 25), mask.shape))
            yield Pair(f"{folder}/{path.name}, moved, blurred, noisy", pred, mask)


def random_pair(seed: int, shape: tuple[int, int] | None = None) -> Pair:
    rng = np.random.default_rng(seed)
    if shape is None:
        shape = tuple((1 + rng.random(2) ** 2 * (400, 500)).astype(int).tolist())  # squared: many are small
    (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in shape)
    box = np.zeros(shape)
    box[top:bottom, left:right] = 255
    lines = np.zeros(shape, np.uint8)
    for start, end in rng.integers(0, shape[::-1], (5, 2, 2)).tolist():
        cv2.line(lines, start, end, 255, 1 + seed % 3)
    masks = {
        "blob": (clouds(rng, shape, rng.uniform(1, 40)) > rng.uniform(0.3, 0.9)) * 255,
        "noise": (rng.random(shape) < rng.random()) * 255,
        "dots": (rng.random(shape) < 10 ** rng.uniform(-5, -2)) * 255,
        "box": box,
        "lines": lines,
        "grey": clouds(rng, shape, 5) * 255,  # not 0/255: foreground above 128; for the mirror set at 255
    }
    mask_kind = list(masks)[seed % len(masks)]
    mask = to_levels(masks[mask_kind])
    soft = clouds(rng, shape, rng.uniform(1, 20))
    low, high = np.sort(rng.integers(0, 256, 2))
    maps = {
        "noise": rng.integers(0, 256, shape),
        "clouds": soft * 255,
        "steep clouds": (soft * 255 - rng.uniform(80, 200)) * rng.uniform(1, 20),
        "two levels": (soft > rng.uniform(0.1, 0.9)) * rng.integers(1, 256),
        "part of the range": low + soft * (high - low),
        "few levels": rng.choice(rng.integers(0, 256, rng.integers(2, 6)), shape),
        "near the mask": cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 8)) + rng.normal(0, 5, shape),
    }
    map_kind = list(maps)[seed % len(maps)]
    return Pair(f"random {seed}, {map_kind} on {mask_kind}, {shape[0]}x{shape[1]}", to_levels(maps[map_kind]), mask)


def random_pairs() -> Iterator[Pair]:
    yield random_pair(0, (1, 1))
    yield from map(random_pair, range(1, 60))


def large_pairs() -> Iterator[Pair]:
    yield random_pair(30, (2000, 1500))  # the seeds choose steep clouds on a blob, and few levels on dots
    yield random_pair(26, (800, 1300))


def edge_pairs() -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    for h, w in ((1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 2), (7, 5), (60, 47)):
        third, middle = (h // 3 + 1, w // 3 + 1), (slice(h // 4, h // 2 + 1), slice(w // 4, w // 2 + 1))
        foreground = {
            "empty": np.s_[:0],
            "full": np.s_[:],
            "first pixel": np.s_[0, 0],
            "middle pixel": np.s_[h // 2, w // 2],
            "last pixel": np.s_[-1, -1],
            "top": np.s_[: third[0], middle[1]],
            "bottom": np.s_[-third[0] :, middle[1]],
            "left": np.s_[middle[0], : third[1]],
            "right": np.s_[middle[0], -third[1] :],
            "last row": np.s_[-1:],
            "last column": np.s_[:, -1:],
            "every other pixel": np.indices((h, w)).sum(axis=0) % 2 == 1,
        }
        for mask_name, part in foreground.items():
            mask = np.zeros((h, w), np.uint8)
            mask[part] = 255
            noise = rng.integers(0, 256, (h, w))
            corners = np.full((h, w), 90)
            corners.flat[[0, -1]] = 0, 255
            maps = {f"constant {level}": np.full((h, w), level) for level in (0, 1, 77, 127, 128, 255)}
            maps |= {"mask": mask, "mask's inverse": 255 - mask, "mask as 0 and 1": mask // 255, "noise": noise}
            maps |= {"noise in a narrow range": 250 + noise % 4, "flat but for two corners": corners}
            # a class that is flat at a level that is neither end of the range
            maps |= {"flat foreground": np.where(mask > 0, 90, noise), "flat background": np.where(mask > 0, noise, 90)}
            for map_name, pred in maps.items():
                yield Pair(f"edge, map {map_name}, foreground {mask_name}, {h}x{w}", pred.astype(np.uint8), mask)


def tie_pairs() -> Iterator[Pair]:
    """Maps of black, white and one level between that is, but for rounding, twice the mean: the adaptive threshold."""
    rng = np.random.default_rng(0)
    for times in (3, 5, 6, 10, 15, 17, 30, 34):  # n = 2 m + times b for b white ones makes 510 / times that threshold
        for _ in range(8):
            height, level_width, white_width = rng.integers(1, 12, 3).tolist()
            shape = height, 2 * level_width + times * white_width
            pred = np.zeros(shape[0] * shape[1], np.uint8)
            pred[: height * white_width] = 255
            pred[-height * level_width :] = 510 // times
            pred = rng.permutation(pred).reshape(shape)
            mask = to_levels((rng.random(shape) < 0.4) * 255)
            yield Pair(f"tie at level {510 // times}, {shape[0]}x{shape[1]}", pred, mask)


def ramp_pairs() -> Iterator[Pair]:
    """Every width of a map's range, which stretching turns into all levels that can come out of it."""
    rng = np.random.default_rng(0)
    for width in range(1, 256):
        low = int(rng.integers(0, 256 - width))
        pred = np.tile(np.arange(low, low + width + 1, dtype=np.uint8), (2, 1))
        mask = to_levels(np.stack([np.arange(width + 1) % 2, np.arange(width + 1) % 3 > 0]) * 255)
        yield Pair(f"ramp from {low} to {low + width}", pred, mask)


GROUPS = {"random": random_pairs, "large": large_pairs, "edge": edge_pairs, "tie": tie_pairs, "ramp": ramp_pairs}


@pytest.fixture(scope="module", params=["real", *GROUPS])
def pairs(request):
    """One group of pairs, each with the library's scores."""
    group = GROUPS.get(request.param) or (lambda: real_pairs(request.getfixturevalue("shared") / "data"))
    return [(pair, score_by_library(pair.pred, pair.mask)) for pair in group()]


@pytest.fixture(params=["kernels", "kernels_numba"])
def kernels(request, monkeypatch):
    if request.param == "kernels_numba":
        pytest.importorskip("numba")  # the extra `fast`
    module = importlib.import_module(f"sam2unet.scoring.pixels.{request.param}")
    monkeypatch.setattr(weighted_f, "kernels", module)
    return module


def off(ours: float | np.ndarray, theirs: float | np.ndarray) -> float:
    """Largest difference, relative above 1: E of one pixel is up to 4.5e15. Infinite if only one of them is NaN."""
    if np.shape(ours) != np.shape(theirs) or not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return np.inf
    return float(np.nan_to_num(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())


def over_bounds(name: str, ours: object, theirs: object) -> list[str]:
    """A line for each field of `ours` that is too far from the same attribute of `theirs`."""
    lines = []
    for field in fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if not (gap := off(mine, other)) <= BOUNDS.get(field.name, BOUND):
            at = np.argmax(np.nan_to_num(np.abs(np.subtract(mine, other)), nan=np.inf))
            there = f" at entry {at}" if np.ndim(mine) else ""
            mine, other = float(np.ravel(mine)[at]), float(np.ravel(other)[at])
            lines.append(f"{name}: {field.name} off by {gap:.1e}: {mine}, not {other}{there}")
    return lines


def show(lines: list[str]) -> str:
    return f"{len(lines)} numbers over their bounds; first:\n" + "\n".join(lines[:12])


def test_every_number_equals_the_library(pairs, kernels):
    assert pairs
    bad = [line for pair, theirs in pairs for line in over_bounds(pair.name, score_image(pair.pred, pair.mask), theirs)]
    assert not bad, show(bad)


@pytest.mark.parametrize("part", [np.s_[-1:], np.s_[:, -1:], np.s_[-1, -1]], ids=["row", "column", "pixel"])
def test_s_is_not_a_number_where_the_centroid_lies_in_the_last(part):
    mask = np.zeros((60, 47), np.uint8)
    mask[part] = 255
    pred = np.random.default_rng(0).integers(0, 256, mask.shape, np.uint8)
    assert np.isnan(score_by_library(pred, mask).S) and np.isnan(score_image(pred, mask).S)
    mask[:30, :30] = 255
    assert np.isfinite(score_image(pred, mask).S)


def test_rounding_puts_tied_levels_on_either_side_of_the_adaptive_threshold():
    """Else the group `tie` would not show that our rounding is the library's."""
    kept = []
    for pair in tie_pairs():
        not_black, fg = pair.pred > 0, pair.mask > 128
        f1_with_the_level = 2 * (not_black & fg).sum() / (not_black.sum() + fg.sum())
        kept.append(np.isclose(score_by_library(pair.pred, pair.mask).F1_adaptive, f1_with_the_level, rtol=1e-9))
    assert 0 < sum(kept) < len(kept)


def test_kernels_agree():
    pytest.importorskip("numba")
    compiled = importlib.import_module("sam2unet.scoring.pixels.kernels_numba")
    for pair in [*random_pairs(), random_pair(6, (700, 600))]:
        fg = to_levels((pair.mask > 128) * 255)
        short, over = (255 - pair.pred) & fg, pair.pred & ~fg
        filled = [kernels.fill_band(short, fg) for kernels in (numpy_kernels, compiled)]
        np.testing.assert_array_equal(*filled, err_msg=pair.name)
        if fg.any():
            sums = [kernels.closeness_sum(over, fg) for kernels in (numpy_kernels, compiled)]
            np.testing.assert_allclose(*sums, rtol=1e-12, err_msg=pair.name)  # terms are added in another order


def test_bool_masks_and_views_score_the_same():
    _, pred, mask = random_pair(6, (61, 83))
    expected = score_image(pred, mask)
    wide = np.repeat(pred, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    for same in (score_image(pred, mask > 128), score_image(wide, np.asfortranarray(mask))):
        assert over_bounds("view", same, expected) == []
    assert over_bounds("mirror", score_mirror(wide, mask == 255), score_mirror(pred, mask)) == []


def test_large_images_are_counted_in_strips(monkeypatch):
    _, pred, mask = random_pair(6, (61, 83))
    expected = score_image(pred, mask)
    monkeypatch.setattr(histograms, "EXACT_IN_FLOAT32", 200)
    assert over_bounds("strips", score_image(pred, mask), expected) == []


@pytest.mark.parametrize("scores", [score_image, score_mirror])
def test_what_is_no_pair_is_refused(scores):
    image = np.zeros((4, 5), np.uint8)
    for pred, mask in ((image, image[1:]), (image[..., None], image[..., None]), (image[:0], image[:0])):
        with pytest.raises(ValueError, match="one size"):
            scores(pred, mask)
    for pred, mask in ((image / 255, image), (image, image / 255)):
        with pytest.raises(TypeError, match="uint8"):
            scores(pred, mask)


class MirrorByDefinition:
    """HetNet's eval.py, pixel by pixel and threshold by threshold. A quotient of nothing is NaN."""

    def __init__(self, pred: np.ndarray, mask: np.ndarray):
        mirror = mask == 255
        found = pred > 127.5
        hits, right_rest = np.sum(found & mirror), np.sum(~found & ~mirror)
        low, high = pred.min(), pred.max()
        with np.errstate(invalid="ignore"):
            self.IoU = hits / np.sum(found | mirror)
            self.accuracy = hits / np.sum(mirror)
            self.BER = 1 - (hits / np.sum(mirror) + right_rest / np.sum(~mirror)) / 2
            stretched = (pred - low).astype(np.float32) / np.float32(high - low) if high else np.float32(pred)
        self.MAE = np.mean(np.abs(stretched.astype(np.float64) - mirror))
        levels = (255 * np.nan_to_num(stretched)).astype(np.uint8)  # one grey: NaN, which becomes black
        cuts = [levels > threshold for threshold in range(256)]
        shared = np.array([np.count_nonzero(cut & mirror) for cut in cuts])
        self.precision_curve = (shared + 1e-4) / (np.array([np.count_nonzero(cut) for cut in cuts]) + 1e-4)
        self.recall_curve = (shared + 1e-4) / (np.count_nonzero(mirror) + 1e-4)


@pytest.mark.parametrize("group", ["random", "edge", "ramp"])
def test_mirror_scores_are_those_of_their_definition(group):
    bad = []
    for name, pred, mask in GROUPS[group]():
        bad += over_bounds(name, score_mirror(pred, mask), MirrorByDefinition(pred, mask))
    assert not bad, show(bad)


def test_mirror_f_is_the_best_f_of_the_mean_curves():
    scores = [score_mirror(pair.pred, pair.mask) for pair in map(random_pair, (6, 12, 24, 36))]
    precision = np.mean([each.precision_curve for each in scores], axis=0)
    recall = np.mean([each.recall_curve for each in scores], axis=0)
    by_threshold = [1.3 * p * r / (0.3 * p + r) for p, r in zip(precision, recall, strict=True)]
    assert f_measure(precision, recall, 0.3).max() == pytest.approx(max(by_threshold), abs=1e-12)
