"""Finds near duplicates, that is, images whose perceptual hashes differ in few bits, without computing all distances.

The method is covering locality-sensitive hashing (Pagh, 2016, arXiv:1507.03225). It misses no pair:

- The bits are cut into parts. If two hashes differ in at most NEAR bits, they differ in at most `radius` bits of one
  part, because each part but the first could have one more.
- Each bit of a part gets a random vector of `radius` + 1 binary numbers. There is one mask for each vector other than
  0. It keeps the bits whose product with this vector is odd.
- Whatever `radius` bits differ, one of these vectors has an even product with all of theirs. Its mask leaves out all
  bits that differ. So pairs that are equal under a mask are candidates.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy import ndarray

from ..volumes.slices import Source
from .findings import BITS, NEAR, ImageFacts, Twin

PARTS = 13
FEW = 2**29  # pairs; for fewer, all distances take less time
BLOCK = 2**18  # candidates whose distances are computed at once


def find_near_duplicates(images: Mapping[Source, ImageFacts], others: Mapping[Source, ImageFacts]) -> list[Twin]:
    """Returns the nearest of `images` for each of `others`, if at most NEAR bits differ. The nearest pairs come first.

    Images with equal pixels are left out. Of equally near images, returns the first.
    """
    known = {look.pixels for look in images.values()}
    others = {path: look for path, look in others.items() if look.pixels not in known}
    if not images or not others:
        return []
    indices, distances = find_nearest(*(np.array([look.bits for look in looks.values()]) for looks in (others, images)))
    names, paths = list(others), list(images)
    near = np.flatnonzero(distances <= NEAR)
    twins = [Twin(names[row], paths[indices[row]], int(distances[row])) for row in near]
    return sorted(twins, key=lambda twin: twin.distance)


def find_nearest(rows: ndarray, columns: ndarray) -> tuple[ndarray, ndarray]:
    """Returns for each of `rows` (R, BITS) bool the index of the nearest of `columns` (C, BITS), and the distance.

    Of equally near columns it is the first. For a row without a column within NEAR bits, the distance is above NEAR.
    """
    best = np.full(len(rows), (BITS + 1) * len(columns))  # distance * C + index, so that the least is the first nearest
    if len(rows) * len(columns) < FEW:
        best = measure_all(rows, columns)
        return best % len(columns), best // len(columns)
    packed = [np.packbits(bits, axis=1).view(np.uint64) for bits in (rows, columns)]
    tested = np.zeros(len(rows), np.int64)  # number of candidates of each row
    for row_keys, column_keys in list_keys(rows, columns):
        order = np.argsort(column_keys)
        keys = column_keys[order]
        start = np.searchsorted(keys, row_keys)
        (hits,) = np.nonzero((keys[start.clip(max=len(keys) - 1)] == row_keys) & (tested <= len(columns)))
        start = start[hits]
        count = np.searchsorted(keys, row_keys[hits], "right") - start
        tested[hits] += count
        few = tested[hits] <= len(columns)
        add_candidates(best, packed, hits[few], order, start[few], count[few])
    (rest,) = np.nonzero(tested > len(columns))  # many columns are alike, so that all distances take less time
    best[rest] = measure_all(rows[rest], columns)
    return best % len(columns), best // len(columns)


def list_keys(rows: ndarray, columns: ndarray) -> Iterator[tuple[ndarray, ndarray]]:
    """Yields keys (R,) and (C,) uint64. A row and a column within NEAR bits have equal keys at least once."""
    random = np.random.default_rng(0)
    parts = np.array_split(random.permutation(BITS), PARTS)  # bits that are neighbours in the picture are often equal
    sizes = [len(part) for part in np.array_split(np.arange(NEAR + 1), PARTS)]  # radius + 1 of each part
    for part, size in zip(parts, sizes, strict=True):
        row_words, column_words = pack_words(rows[:, part]), pack_words(columns[:, part])
        vectors = random.integers(1, 2**size, len(part)).tolist()
        for vector in range(1, 2**size):
            (mask,) = pack_words(np.array([[(vector & other).bit_count() % 2 for other in vectors]], bool))
            yield row_words & mask, column_words & mask


def pack_words(bits: ndarray) -> ndarray:
    """Returns bits (N, at most 64) as (N,) uint64."""
    padded = np.zeros((len(bits), 64), bool)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1).view(np.uint64)[:, 0]


def add_candidates(
    best: ndarray, packed: list[ndarray], rows: ndarray, order: ndarray, start: ndarray, count: ndarray
) -> None:
    """Lowers `best` by the distances of `rows` to their candidates: the columns in `order[start : start + count]`."""
    row_bits, column_bits = packed
    ends = np.cumsum(count)
    for first in range(0, ends[-1] if len(ends) else 0, BLOCK):
        place = np.arange(first, min(first + BLOCK, ends[-1]))
        which = np.searchsorted(ends, place, "right")
        row, column = rows[which], order[(start + count - ends)[which] + place]
        distance = count_bits(row_bits[row] ^ column_bits[column])
        near = distance <= NEAR
        np.minimum.at(best, row[near], distance[near] * len(column_bits) + column[near])


def count_bits(words: ndarray) -> ndarray:
    """Returns the number of ones (N,) int64 in words (N, W) uint64."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2 on
        return np.bitwise_count(words).sum(1, dtype=np.int64)
    return np.unpackbits(words.view(np.uint8), axis=1).sum(1, dtype=np.int64)


def measure_all(rows: ndarray, columns: ndarray) -> ndarray:
    """Returns (R,) int64: distance * C + index of the first nearest column. Computes all distances, a block at a time.

    With bits as -1 and 1, the product of two rows is the number of equal bits minus the number of different bits.
    """
    best = np.full(len(rows), (BITS + 1) * len(columns))
    blocks = [slice(start, start + 4096) for start in range(0, max(len(rows), len(columns)), 4096)]
    for block in blocks:
        signs = (columns[block] * np.float32(2) - 1).T
        for part in blocks if signs.size else []:
            distances = (BITS - (rows[part] * np.float32(2) - 1) @ signs) / 2
            nearest = distances.min(1).astype(np.int64) * len(columns) + distances.argmin(1) + block.start
            best[part] = np.minimum(best[part], nearest)
    return best
