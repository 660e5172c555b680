"""What a run needs from the machine."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from ..config import Recipe
from ..errors import UserError
from ..limits import shorten

T = TypeVar("T")
R = TypeVar("R")


def pick_device(name: str | torch.device | None, local_rank: int = 0) -> torch.device:
    """The device of that name, or a GPU if there is one and the CPU if not; UserError if it cannot be used.

    Args:
        local_rank: which of this machine's processes this is; each takes a GPU of its own.
    """
    if name is None:
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors without values
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError, OverflowError) as e:
        raise UserError(f"device {shorten(name)} cannot be used here; give cpu, or no device") from e
    return device


def set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def default_workers() -> int:
    return min(8, os.cpu_count() or 1)


def ahead(
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


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next tensors; nothing where the C library is not glibc.

    glibc gives large blocks back to the system at once, which must clear their pages again at each next use: on a CPU
    a third of the time of a training step of large weights.
    """
    trim_threshold, mmap_threshold, never = -1, -3, 2**31 - 1
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, never)
        libc.mallopt(trim_threshold, never)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def memory_for_maps(device: torch.device, batch_size: int) -> Iterator[None]:
    """Inside, too little memory for prediction is a line with what helps."""
    try:
        yield
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        smaller = f"--batch_size {batch_size // 2}, " if batch_size > 1 else ""
        raise UserError(
            f"out of memory on {device} with batches of {batch_size}. What helps: {smaller}--amp bf16 (half precision, "
            "close to the same), a smaller --size (other maps), --device cpu (slower)"
        ) from e


def out_of_memory(error: RuntimeError, recipe: Recipe, device: torch.device) -> UserError | None:
    """What helps, and what it costs, where memory did not suffice; None for any other error."""
    if not is_out_of_memory(error):
        return None
    half, twice = max(1, recipe.batch_size // 2), 2 * recipe.accumulate
    return UserError(
        f"out of memory on {device} with batches of {recipe.batch_size} at {recipe.size}x{recipe.size}. What helps: "
        "--grad_checkpointing (the trunk is computed twice; same result), --amp bf16 (half precision; close to the "
        f"same), --batch_size {half} --accumulate {twice} (as many images per step; BatchNorm sees {half})"
    )
