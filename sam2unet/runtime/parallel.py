"""Run work in threads: read ahead, map over files, group into batches."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm


def map_files(look: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        looks = pool.map(look, items)
        return list(tqdm(looks, desc="checking files", total=len(items), leave=False, disable=None))


def batched(items: Iterable, count: int) -> Iterator[tuple]:
    items = iter(items)
    while batch := tuple(itertools.islice(items, count)):
        yield batch


T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    return min(8, os.cpu_count() or 1)


def prefetch(
    pool: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    count: int,
    weight: Callable[[T], int] = lambda item: 1,
) -> Iterator[R]:
    """`map` in the pool, in order, at most `count` results ahead of what is taken; a heavy item counts for several."""
    waiting, total = deque(), 0
    for item in items:
        waiting.append((weight(item), pool.submit(function, item)))
        total += waiting[-1][0]
        while total > count:
            heavy, result = waiting.popleft()
            yield result.result()
            total -= heavy
    while waiting:
        yield waiting.popleft()[1].result()
