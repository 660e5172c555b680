"""Threads that read files or compute, and batches."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def map_files(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Returns `function(item)` for each item, computed in threads, with a progress bar."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        results = pool.map(function, items)
        return list(tqdm(results, desc="checking files", total=len(items), leave=False, disable=None))


def batched(items: Iterable, count: int) -> Iterator[tuple]:
    """Yields tuples of `count` items. The last tuple may be shorter."""
    items = iter(items)
    while batch := tuple(itertools.islice(items, count)):
        yield batch


def default_workers() -> int:
    """Returns the number of CPU cores, at most 8."""
    return min(8, os.cpu_count() or 1)


def compute_in_parallel(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yields `function(item)` for each item, in order, and computes `count` items at the same time.

    Until the last item, PyTorch divides its threads among them. Also the calling thread has only its share, so that no
    more threads compute than there are cores.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield from prefetch(pool, function, items, count)
    finally:
        torch.set_num_threads(threads)


def prefetch(
    pool: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    count: int,
    weight: Callable[[T], int] = lambda item: 1,
) -> Iterator[R]:
    """Yields `function(item)` for each item, in order. The pool computes results before they are requested.

    `count` is the largest total `weight` of the results that wait.
    """
    waiting, total = deque(), 0
    for item in items:
        waiting.append((weight(item), pool.submit(function, item)))
        total += waiting[-1][0]
        while total > count:
            item_weight, result = waiting.popleft()
            yield result.result()
            total -= item_weight
    while waiting:
        yield waiting.popleft()[1].result()
