"""Threads that read files, and batches."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def count_cores() -> int:
    """Returns the number of CPU cores that this process may use. A job of a cluster can have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_files(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Returns `function(item)` for each item, computed in threads, with a progress bar."""
    return list(iterate_files(function, items, len(items)))


def iterate_files(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yields `function(item)` for each of `count` items, computed in threads, with a progress bar."""
    cores = count_cores()
    with ThreadPoolExecutor(cores) as pool:  # decoding releases the interpreter's lock
        results = prefetch(pool, function, items, 16 * cores)
        yield from tqdm(results, desc="checking files", total=count, leave=False, disable=None)


def batched(items: Iterable, count: int) -> Iterator[tuple]:
    """Yields tuples of `count` items. The last tuple may be shorter."""
    items = iter(items)
    while batch := tuple(itertools.islice(items, count)):
        yield batch


def default_workers() -> int:
    """Returns `count_cores`, at most 8."""
    return min(8, count_cores())


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
    waiting: deque[tuple[int, Future[R]]] = deque()
    total = 0
    for item in items:
        waiting.append((weight(item), pool.submit(function, item)))
        total += waiting[-1][0]
        while total > count:
            item_weight, result = waiting.popleft()
            yield result.result()
            total -= item_weight
    while waiting:
        yield waiting.popleft()[1].result()
