"""Masks with several classes: their check, the counts of pixels, weights of classes, and the validation images."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from sam2unet.classes import Classes
from sam2unet.data.checks.check import check_masks, check_pairs
from sam2unet.data.class_counts import inverse_weights, keep_all_classes, warn_missing_classes
from sam2unet.data.pairs import list_files, match
from sam2unet.errors import UserError
from sam2unet.task import draw_held_out
from tests.conftest import save, write_class_pairs, write_pairs

CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()


def make_classes(count, ignore=()):
    rows = [{"name": name, "value": value} for value, name in enumerate(CAMVID[:count])]
    return Classes.from_entries({"classes": rows, "ignore": list(ignore)}, "classes.yaml")


def test_the_counts_are_those_of_the_masks(tmp_path):
    images, masks, file = write_class_pairs(tmp_path)
    counts = check_pairs(match(images, masks), Classes.read(file)).counts
    pixels = [np.asarray(Image.open(path)) for path in list_files(masks)]
    assert counts.dtype == np.int64
    assert np.array_equal(counts, [[(values == value).sum() for value in range(3)] for values in pixels])
    assert check_pairs(match(*write_pairs(tmp_path / "binary"))).counts is None


def test_values_of_no_class_in_several_masks_are_one_line(tmp_path):
    images, masks, file = write_class_pairs(tmp_path)
    save(masks / "a.png", np.full((50, 60), 9, np.uint8))
    save(masks / "c.png", np.tile(np.array([8, 9, 0], np.uint8), (50, 20)))
    with pytest.raises(UserError) as error:
        check_pairs(match(images, masks), Classes.read(file))
    assert str(error.value) == (
        "2 of 4 masks have values of no class: 9 (4,000 pixels in 2 files: a.png, c.png), "
        "8 (1,000 pixels in 1 files: c.png); add the line `- {name: ..., value: 9}` to the classes, "
        f"or `ignore: [255, 9]` (in {masks})"
    )


def test_camvid_without_its_unlabelled_value_names_it(shared):
    folder = shared / "data/camvid/train/masks"
    files = list_files(folder)[:20]
    with pytest.raises(UserError, match=r"20 of 20 masks have values of no class: 11 \([\d,]+ pixels in 20 files"):
        check_masks(files, make_classes(11))
    sizes, counts = check_masks(files, make_classes(11, ["11"]))
    assert set(map(tuple, sizes.tolist())) == {(480, 360)} and counts.shape == (20, 11)
    pixels = np.bincount(np.concatenate([np.asarray(Image.open(path)).ravel() for path in files]), minlength=12)
    assert np.array_equal(counts.sum(0), pixels[:11])


def test_inverse_weights_are_shares_of_all_pixels_with_mean_1():
    weights = inverse_weights(np.array([[6, 0, 2], [2, 1, 1]]), make_classes(3))
    assert weights == pytest.approx(np.array([12 / 8, 12 / 1, 12 / 3]) / (17.5 / 3))
    assert np.mean(weights) == pytest.approx(1)
    with pytest.raises(UserError, match="inverse: building occurs in no training mask"):
        inverse_weights(np.array([[6, 0, 2]]), make_classes(3))


def cost(held_out, counts):
    """What `keep_all_classes` makes small: classes that one part does not have. Training counts twice."""
    inside = np.isin(np.arange(len(counts)), held_out)
    present = counts[:, counts.any(0)] > 0
    return (~present[inside].any(0)).sum() + 2 * (~present[~inside].any(0)).sum()


@settings(deadline=None, max_examples=60)
@given(arrays(np.int64, st.tuples(st.integers(2, 7), st.integers(1, 4)), elements=st.integers(0, 1)), st.data())
def test_no_other_split_keeps_more_classes_or_changes_fewer_images(counts, data):
    drawn = draw_held_out(len(counts), data.draw(st.sampled_from([0.01, 0.3, 0.5])), data.draw(st.integers(0, 9)))
    chosen = keep_all_classes(drawn, counts)
    assert len(set(chosen)) == len(drawn) and chosen == sorted(chosen) == keep_all_classes(drawn, counts)
    splits = list(itertools.combinations(range(len(counts)), len(drawn)))
    best = min((cost(split, counts), len({*drawn} - {*split})) for split in splits)
    assert (cost(chosen, counts), len({*drawn} - {*chosen})) == best


def test_a_draw_with_all_classes_in_both_parts_stays():
    counts = np.random.default_rng(0).integers(1, 9, (40, 5))
    drawn = draw_held_out(40, 0.2, 1024)
    assert keep_all_classes(drawn, counts) == drawn


def test_a_rare_class_of_many_masks_reaches_both_parts_in_no_time():
    counts = np.random.default_rng(0).integers(0, 2, (5000, 100))
    counts[:, :3] = 0
    counts[[7, 8], 0] = counts[[8, 9], 1] = counts[4000, 2] = 1
    drawn = draw_held_out(5000, 0.1, 3)
    chosen = keep_all_classes(drawn, counts)
    assert cost(chosen, counts) == 1 and 4000 not in chosen  # the single image of class 2 is for training
    assert len({*drawn} - {*chosen}) <= 2


def test_classes_that_a_part_does_not_have_are_one_line(capsys):
    counts = np.array([[5, 0, 1, 0], [5, 3, 0, 0], [5, 0, 0, 0]])
    warn_missing_classes([0], counts, make_classes(4))
    assert capsys.readouterr().err == (
        "warning: --val_fraction cannot keep every class in training and validation: building in no validation mask; "
        "pole in no training mask; road in no mask; add images with these classes, or give a larger fraction\n"
    )
    warn_missing_classes([0], np.ones((2, 4)), make_classes(4))
    assert capsys.readouterr().err == ""
