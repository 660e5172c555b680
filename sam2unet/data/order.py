"""Random orders and random numbers that are computed for any position alone, without a list of the whole epoch.

Letters: N positions. All functions work on arrays of positions at once. Sums and products of uint64 drop overflowing
bits, as intended.
"""

import numpy as np
from numpy import ndarray

STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the step of SplitMix64 (Steele et al., OOPSLA 2014)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # the constants of its output function
ROUNDS = 8  # of the Feistel network; four are enough for independent keys (Luby and Rackoff, 1988)
STEPS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * STEP
COLUMNS = 16  # random numbers that belong to a position


def mix(numbers: ndarray) -> ndarray:
    """The output function of SplitMix64: uint64 (N,) -> uint64 (N,), which looks random. It is a bijection."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * FACTORS[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * FACTORS[1]
    return numbers ^ (numbers >> np.uint64(31))


def make_keys(key: int, *numbers: ndarray) -> ndarray:
    """Returns uint64 (N,), a key for each position. `numbers` are arrays (N,) of whole numbers from 0."""
    keys = np.full(len(numbers[0]), key, np.uint64)
    for part in numbers:
        keys = mix(keys + STEP * (part.astype(np.uint64) + np.uint64(1)))
    return keys


def permute(places: ndarray, counts: ndarray, keys: ndarray) -> ndarray:
    """Returns int64 (N,), the element at each place of a random order. Every key gives another order.

    A Feistel network permutes the cells of a table with at least `count` cells. A place whose cell is not an element
    takes further steps until it is one (cycle walking; Black and Rogaway, CT-RSA 2002).

    Args:
        places: whole numbers (N,), from 0 to below `counts`.
        counts: whole numbers (N,), the number of elements of each order, from 1.
        keys: uint64 (N,), see `make_keys`.
    """
    elements, counts = places.astype(np.uint64), counts.astype(np.uint64)
    rows = np.ceil(np.sqrt(counts)).astype(np.uint64)
    columns = (counts + rows - np.uint64(1)) // rows
    waiting = np.arange(len(elements))
    while len(waiting):
        row, column = np.divmod(elements[waiting], columns[waiting])
        for number in range(ROUNDS):
            key = mix(keys[waiting] + STEPS[number])
            if number % 2:
                column = (column + mix(key + STEP * row) % columns[waiting]) % columns[waiting]
            else:
                row = (row + mix(key + STEP * column) % rows[waiting]) % rows[waiting]
        elements[waiting] = row * columns[waiting] + column
        waiting = waiting[elements[waiting] >= counts[waiting]]
    return elements.astype(np.int64)


def draw_uniform(key: int, positions: ndarray, columns: int) -> ndarray:
    """Returns float64 (N, columns) in [0, 1), at most `COLUMNS` columns. A column does not depend on the others."""
    counters = positions.astype(np.uint64)[:, None] * np.uint64(COLUMNS) + np.arange(columns, dtype=np.uint64)
    return (mix(np.uint64(key) + STEP * (counters + np.uint64(1))) >> np.uint64(11)) * 2.0**-53


def choose_evenly(count: int, limit: int) -> ndarray:
    """Returns int64, ascending: all positions below `count`, or `limit` of them, always the same random ones."""
    if count <= limit:
        return np.arange(count)
    places = np.arange(limit)
    return np.sort(permute(places, np.full(limit, count), make_keys(0, np.zeros(limit, np.uint64))))
