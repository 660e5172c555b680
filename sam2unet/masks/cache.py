"""Keeps resized pairs as 8-bit pixels, so that a run decodes each file once and not once per epoch."""

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
from ..data.slices import Slice
from ..errors import UserError, print_line
from ..recipe import MaskRule
from .transforms import pair_bytes


def open_cache(
    place: str, pairs: Sequence[Pair], side: int, mask_threshold: MaskRule, folder: Path, copies: int = 1
) -> Tensor | None:
    """Returns all resized pairs, uint8 (pairs, 4, side, side): red, green, blue, mask. None if `place` is `off`.

    `ram` fills memory; `copies` processes of this machine do so. `disk` writes a file in `folder`, which later runs
    with the same data use again. Raises UserError if the cache does not fit, or a file cannot be read.
    """
    if place == "off":
        return None
    shape = (len(pairs), 4, side, side)
    if place == "ram":
        place = f"RAM, {copies} times" if copies > 1 else "RAM"
        print_cache_size(shape, place, math.prod(shape) * copies, free_memory())
        pixels = torch.empty(shape, dtype=torch.uint8)
        for target, row in zip(pixels, read_pair_rows(pairs, side, mask_threshold), strict=True):
            target.copy_(row)
        return pixels
    path = folder / f"cache-{compute_cache_key(pairs, side, mask_threshold)}.npy"
    if not path.is_file():
        print_cache_size(shape, f"disk ({path})", math.prod(shape), shutil.disk_usage(folder).free)
        with write_atomic(path) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for row in read_pair_rows(pairs, side, mask_threshold):
                file.write(row.numpy().tobytes())
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # copy-on-write: torch needs a writable array


def print_cache_size(shape: tuple[int, ...], where: str, need: int, free: int) -> None:
    """Prints the size of the cache. UserError if it needs more than nine tenths of the free space."""
    text = f"cache: {shape[0]} pairs at {shape[-1]}x{shape[-1]} take {need / 2**30:.2f} GiB of {where}"
    if need > 0.9 * free:
        raise UserError(f"{text}, but {free / 2**30:.2f} are free; give --cache {'disk' if 'RAM' in where else 'off'}")
    print_line(text)


def read_pair_rows(pairs: Sequence[Pair], side: int, mask_threshold: MaskRule) -> Iterator[Tensor]:
    """Yields uint8 (4, side, side) for each pair, in order. One thread per core decodes files."""

    def read(pair: Pair) -> Tensor:
        return torch.cat(pair_bytes(pair, side, mask_threshold))

    bar = tqdm(total=len(pairs), desc="cache", leave=False, disable=None)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for begin in range(0, len(pairs), 64):  # in blocks, so that few rows wait in memory for a slow disk
            for row in pool.map(read, pairs[begin : begin + 64]):
                bar.update()
                yield row


def compute_cache_key(pairs: Sequence[Pair], side: int, mask_threshold: MaskRule) -> str:
    """Returns a key of the content: the files with sizes and times, the resizing, and the version of Pillow."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for pair in pairs for path in pair]
    views = {pair.image.view for pair in pairs if isinstance(pair.image, Slice)}
    return hashlib.sha256(repr((facts, side, mask_threshold, PIL.__version__, *views)).encode()).hexdigest()[:16]


def free_memory() -> int:
    """Returns the bytes of memory that are free, as the kernel and the container report them."""
    if not (table := Path("/proc/meminfo")).is_file():
        return sys.maxsize
    lines = (line.split() for line in table.read_text().splitlines())
    free = [next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        free.append(int(text) - int(used.read_text()))
    return min(free)
