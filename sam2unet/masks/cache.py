"""Resized pairs kept as 8 bits, so that files are decoded once in a run and not once in an epoch."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from ..atomic import write_atomic
from ..data.pairs import Pair
from ..errors import UserError, print_line
from ..recipe import ForegroundRule
from .transforms import pair_bytes

PLACES = ("off", "ram", "disk")


def open_cache(
    place: str, pairs: Sequence[Pair], side: int, mask_threshold: ForegroundRule, folder: Path, copies: int = 1
) -> Tensor | None:
    """All pairs resized, uint8 (pairs, 4, side, side): red, green, blue, mask. None where `place` is off.

    Args:
        place: `ram`; `disk`, a file in `folder` that a later run with the same data takes again; or `off`.
        copies: how many processes of this machine keep one in RAM.

    Raises:
        UserError: it does not fit, or a file cannot be read.
    """
    if place == "off":
        return None
    shape = find_cache_shape(len(pairs), side)
    if place == "ram":
        print_cache_size(
            shape, f"RAM{f', {copies} times' if copies > 1 else ''}", math.prod(shape) * copies, free_memory()
        )
        pixels = torch.empty(shape, dtype=torch.uint8)
        for kept, row in zip(pixels, rows(pairs, side, mask_threshold), strict=True):
            kept.copy_(row)
        return pixels
    path = folder / f"cache-{compute_cache_key(pairs, side, mask_threshold)}.npy"
    if not path.is_file():
        print_cache_size(shape, f"disk ({path})", math.prod(shape), shutil.disk_usage(folder).free)
        with write_atomic(path) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for row in rows(pairs, side, mask_threshold):
                file.write(row.numpy().tobytes())
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # torch wants an array that could be written to


def find_cache_shape(pairs: int, side: int) -> tuple[int, int, int, int]:
    return (pairs, 4, side, side)


def print_cache_size(shape: tuple[int, ...], where: str, need: int, free: int) -> None:
    """How much will be taken; UserError if it is more than nine tenths of what is free."""
    text = f"cache: {shape[0]} pairs at {shape[-1]}x{shape[-1]} take {need / 2**30:.2f} GiB of {where}"
    if need > 0.9 * free:
        raise UserError(f"{text}, but {free / 2**30:.2f} are free; give --cache {'disk' if 'RAM' in where else 'off'}")
    print_line(text)


def rows(pairs: Sequence[Pair], side: int, mask_threshold: ForegroundRule) -> Iterator[Tensor]:
    """uint8 (4, side, side) of each pair, in order, decoded by one thread per core."""

    def read(pair: Pair) -> Tensor:
        return torch.cat(pair_bytes(pair, side, mask_threshold))

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(pairs), desc="cache", leave=False, disable=None) as bar,
    ):
        for begin in range(0, len(pairs), 64):  # so that memory holds few while the disk is slow
            for row in pool.map(read, pairs[begin : begin + 64]):
                bar.update()
                yield row


def compute_cache_key(pairs: Sequence[Pair], side: int, mask_threshold: ForegroundRule) -> str:
    """Names the contents: files with their sizes and times, what is done to them, and by which Pillow."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for pair in pairs for path in pair]
    return hashlib.sha256(repr((facts, side, mask_threshold, PIL.__version__)).encode()).hexdigest()[:16]


def free_memory() -> int:
    """Bytes that processes here can still take, by the kernel's and the container's account, where they keep one."""
    if not (table := Path("/proc/meminfo")).is_file():
        return sys.maxsize
    lines = (line.split() for line in table.read_text().splitlines())
    free = [next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        free.append(int(text) - int(used.read_text()))
    return min(free)
