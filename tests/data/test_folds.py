"""How pairs are divided into folds."""

import numpy as np
import pytest

from sam2unet.data.folds import assign_folds, find_groups, spread_groups
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from tests.conftest import save


def write_squares(folder, count, patients, sides=None):
    """Pairs named PATIENT_NUMBER, with squares of different sizes; every tenth mask is empty."""
    rng = np.random.default_rng(0)
    for i in range(count):
        name, side = f"p{i % patients}_{i:03}", 0 if i % 10 == 0 else int(rng.integers(2, 30))
        mask = np.zeros((32, 32), np.uint8)
        mask[:side, :side] = 255
        save(folder / f"images/{name}.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        save(folder / f"masks/{name}.png", mask)
    return match(folder / "images", folder / "masks")


def test_folds_have_similar_images_and_each_image_once(tmp_path):
    pairs = write_squares(tmp_path, 60, patients=60)
    places = assign_folds(pairs, 5, seed=1)
    counts = np.bincount(places, minlength=6)[1:]
    assert counts.sum() == 60 and counts.max() - counts.min() <= 1
    empty = [place for pair, place in zip(pairs, places, strict=True) if int(pair.mask.stem[-3:]) % 10 == 0]
    assert sorted(np.bincount(empty, minlength=6)[1:]) == [1, 1, 1, 1, 2]  # six empty masks
    assert places == assign_folds(pairs, 5, seed=1) != assign_folds(pairs, 5, seed=2)


def test_a_group_is_in_one_fold(tmp_path):
    pairs = write_squares(tmp_path, 40, patients=8)
    for expression in ("^[^_]+", "^(p[0-9]+)_"):
        places = assign_folds(pairs, 3, seed=0, group=expression)
        homes = {(pair.image.stem.split("_")[0], place) for pair, place in zip(pairs, places, strict=True)}
        assert len(homes) == 8 and {place for _, place in homes} == {1, 2, 3}
    with pytest.raises(UserError, match=r"^8 groups \(p0, .*\) are too few for 9 folds"):
        assign_folds(pairs, 9, seed=0, group="^[^_]+")
    with pytest.raises(UserError, match=r"^--group \^x finds nothing in 40 of 40 names: p0_000"):
        assign_folds(pairs, 3, seed=0, group="^x")
    with pytest.raises(UserError, match="finds nothing in 1 of 2 names: x_1"):  # the part in parentheses is optional
        find_groups(["p1_0", "x_1"], "^(p[0-9])?")
    with pytest.raises(UserError, match=r"^group is not a regular expression \(.*\): \("):
        find_groups(["a"], "(")


def test_every_fold_has_every_class_where_possible():
    rng = np.random.default_rng(0)
    rare = np.arange(50) % 10 == 0  # five images
    strata = np.column_stack([np.ones(50, bool), rng.random(50) < 0.5, rare])
    for seed in range(5):
        places = spread_groups([str(i) for i in range(50)], strata, 5, seed)
        assert sorted(np.bincount(np.array(places)[rare], minlength=6)[1:]) == [1] * 5
        assert np.ptp(np.bincount(places, minlength=6)[1:]) <= 1


def test_equal_images_in_two_folds_are_refused(tmp_path):
    pairs = write_squares(tmp_path, 12, patients=3)
    copy = tmp_path / "images/p1_001.png"
    copy.write_bytes((tmp_path / "images/p0_000.png").read_bytes())
    with pytest.raises(
        UserError, match=r"^1 images have copies with the same pixels in another fold: p\d_00\d.png \(fold"
    ):
        assign_folds(pairs, 3, seed=0, group="^[^_]+")
    places = assign_folds(pairs, 2, seed=0, group="^p(?=[01])|^p2")  # p0 and p1 are one group
    assert len(set(places)) == 2
