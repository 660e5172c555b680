"""Near duplicates are the same as by all distances, in any set of hashes."""

import numpy as np
import pytest

from sam2unet.data.checks import near_duplicates
from sam2unet.data.checks.findings import BITS, NEAR
from sam2unet.data.checks.near_duplicates import find_nearest


def flip(bits, counts, random):
    """Copies of `bits` (N, BITS), in which `counts` random bits are changed."""
    changed = bits.copy()
    for row, count in zip(changed, counts, strict=True):
        row[random.permutation(BITS)[:count]] ^= True
    return changed


@pytest.fixture(params=["photographs", "a film", "dark pictures"])
def hashes(request):
    """Rows and columns: independent ones, ones of few scenes, and ones in which most bits are 0."""
    random = np.random.default_rng(0)
    share = 0.05 if request.param == "dark pictures" else 0.5
    columns = random.random((1500, BITS)) < share
    if request.param == "a film":
        columns = flip(columns[random.integers(0, 3, 1500)], random.integers(0, 60, 1500), random)
    rows = random.random((800, BITS)) < share
    copied = random.integers(0, 1500, 400)
    rows[:400] = flip(columns[copied], random.integers(NEAR - 6, NEAR + 3, 400), random)
    rows[:20] = columns[copied[:20]]
    columns[copied[:10] - 1] = columns[copied[:10]]  # two columns are equally near
    return rows, columns


def test_the_nearest_are_those_of_all_distances(hashes, monkeypatch):
    rows, columns = hashes
    distances = np.array([np.count_nonzero(row ^ columns, axis=1) for row in rows])
    monkeypatch.setattr(near_duplicates, "BLOCK", 5000)
    for pairs in (1, rows.size):  # by keys, and by all distances
        monkeypatch.setattr(near_duplicates, "FEW", pairs * len(columns))
        indices, least = find_nearest(rows, columns)
        near = least <= NEAR
        assert np.array_equal(near, distances.min(1) <= NEAR) and 20 < near.sum()
        assert np.array_equal(least[near], distances.min(1)[near])
        assert np.array_equal(indices[near], distances.argmin(1)[near])


def test_bits_are_counted_alike_by_all_versions_of_numpy(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**63, (50, 8)).astype(np.uint64)
    wanted = [sum(int(word).bit_count() for word in row) for row in words]
    assert near_duplicates.count_bits(words).tolist() == wanted
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_duplicates.count_bits(words).tolist() == wanted
