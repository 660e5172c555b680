"""The order of an epoch: every sample once, in an order that is computed for each position alone."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sam2unet.data.batches import Batches
from sam2unet.data.order import choose_evenly, draw_uniform, make_keys, permute


def order(count: int, key: int = 0) -> np.ndarray:
    places = np.arange(count)
    return permute(places, np.full(count, count), make_keys(key, np.zeros(count, int)))


def draw_all(batches: Batches, epoch: int = 1, seen: int = 0) -> list:
    batches.start(epoch, seen)
    return [draw for batch in batches for draw in batch]


@pytest.mark.parametrize("count", [*range(1, 40), 1000, 65_537])
def test_every_element_comes_once(count):
    assert np.array_equal(np.sort(order(count)), np.arange(count))


def test_the_order_looks_random():
    count, orders = 10_000, [order(10_000, key) for key in range(3)]
    for one in orders:
        assert abs(np.abs(one - np.arange(count)).mean() / count - 1 / 3) < 0.01  # two random numbers in [0, 1)
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.04  # neighbours
        assert (np.diff(one) == 1).sum() < 10
    for one, two in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.04 and (one == two).sum() < 10


def test_all_orders_of_few_elements_are_as_frequent():
    counts = Counter(tuple(order(4, key).tolist()) for key in range(2400))
    assert len(counts) == 24 and 60 < min(counts.values()) and max(counts.values()) < 145  # 100 each, deviation 10


def test_random_numbers_are_uniform_and_independent():
    numbers = draw_uniform(7, np.arange(20_000), 3)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.allclose(numbers.mean(0), 1 / 2, atol=0.01) and np.allclose(numbers.var(0), 1 / 12, atol=0.003)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    assert np.array_equal(draw_uniform(7, np.array([5, 3]), 2), numbers[[5, 3], :2])
    assert not np.isin(draw_uniform(8, np.arange(100), 3), numbers).any()


def test_a_sample_has_different_elements_and_is_always_the_same():
    sample = choose_evenly(1_000_000, 1000)
    assert len(set(sample.tolist())) == 1000 and (np.diff(sample) > 0).all()
    assert 440_000 < sample.mean() < 560_000 and np.array_equal(sample, choose_evenly(1_000_000, 1000))
    assert np.array_equal(choose_evenly(7, 1000), np.arange(7))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4))
def test_the_shares_of_all_processes_are_the_batches_of_one(length, batch_size, repeat, world):
    one = Batches(length, batch_size, seed=3, repeat=repeat)
    whole = draw_all(one, epoch=2)
    assert Counter(draw.index for draw in whole) == dict.fromkeys(range(length), repeat)
    assert len(whole) == one.total
    one.start(epoch=2)
    assert len(list(one)) == one.count == len(one)
    if min(length, batch_size) < world:
        return
    ranks = [Batches(length, batch_size, seed=3, rank=rank, world=world, repeat=repeat) for rank in range(world)]
    for batches in ranks:
        batches.start(epoch=2)
    joined = []
    for parts in zip(*ranks, strict=True):
        assert all(parts)
        joined += [draw for row in itertools.zip_longest(*parts) for draw in row if draw]
    assert joined == whole


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(2, 9), st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_an_epoch_that_changes_its_number_of_processes_takes_every_sample_once(length, batch_size, worlds, data):
    """As `Loop` does it: a batch counts as trained when all processes have taken their share."""
    whole, seen, trained = draw_all(Batches(length, batch_size, seed=5)), 0, []
    for world in worlds:
        if min(length, batch_size) < world:
            continue
        ranks = [Batches(length, batch_size, seed=5, rank=rank, world=world) for rank in range(world)]
        for batches in ranks:
            batches.start(epoch=1, seen=seen)
        steps = list(zip(ranks[0].bounds(seen), *ranks, strict=True))
        assert len(ranks[0]) == len(steps)
        stop = len(steps) if world is worlds[-1] else data.draw(st.integers(0, len(steps)))
        for (begin, end), *parts in steps[:stop]:
            assert all(parts)  # a process without a draw would stop the others
            trained += [draw for rank, part in enumerate(parts) for draw in part if rank < end - begin]
            seen = end
    if seen == length:
        assert sorted(trained) == sorted(whole)


def test_any_batch_is_the_same_alone_and_with_workers():
    batches = Batches(1000, 6, seed=1, augment=True, repeat=2)
    whole = draw_all(batches)
    for seen in (6, 600, 1998):
        assert draw_all(batches, seen=seen) == whole[seen:]
    batches.start(epoch=1)
    loader = DataLoader(Items(), batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=2)
    assert [draw for batch in loader for draw in batch] == whole
    assert draw_all(batches, epoch=2) != whole


class Items:
    def __getitems__(self, draws):
        return draws

    def __len__(self):
        return 1000


def test_balanced_groups_take_turns_and_use_every_row_before_one_comes_again():
    starts, length = np.array([0, 3, 3, 50, 1000]), 1000  # the second group is empty
    batches = Batches(length, 8, seed=0, groups=starts)
    draws = [draw.index for draw in draw_all(batches)]
    assert len(draws) == length
    groups = [[index for index in draws[turn::3]] for turn in range(3)]
    for rows, size, first in zip(groups, (3, 47, 950), (0, 3, 50), strict=True):
        for at in range(0, len(rows) - size + 1, size):
            assert sorted(rows[at : at + size]) == list(range(first, first + size))
        assert len(set(rows)) == min(size, len(rows))
    passes = {tuple(groups[0][at : at + 3]) for at in range(0, 300, 3)}
    assert len(passes) == 6  # every pass has its own order
    assert draw_all(batches, seen=808) == draw_all(batches)[808:]
    halves = [draw_all(Batches(length, 8, seed=0, rank=rank, world=2, groups=starts)) for rank in (0, 1)]
    assert sorted(halves[0] + halves[1]) == sorted(draw_all(batches))


def test_the_memory_of_an_epoch_does_not_grow_with_its_length():
    batches = Batches(10**12, 8, seed=0)
    batches.start(epoch=1, seen=10**12 - 16)
    draws = [draw.index for batch in batches for draw in batch]
    assert len(batches) == 2 and batches.count == 10**12 // 8
    assert len(set(draws)) == 16 and min(draws) >= 0 and max(draws) < 10**12
