"""Keeps resized pairs as 8-bit pixels, so that a run decodes each file once and not once per epoch."""

import hashlib
import math
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from ..atomic import write_atomic
from ..data.pairs import Pair
from ..data.volumes.slices import Slice
from ..errors import UserError, print_line
from ..recipe import MaskRule
from ..runtime.parallel import count_cores, prefetch
from ..runtime.processes import ALONE, Processes
from .transforms import pair_bytes

ROUND = 16  # pairs per process between two exchanges of pixels


def open_cache(
    place: str,
    pairs: Sequence[Pair],
    side: int,
    mask_threshold: MaskRule,
    folder: Path,
    processes: Processes = ALONE,
) -> Tensor | None:
    """Returns all resized pairs, uint8 (pairs, 4, side, side): red, green, blue, mask. None if `place` is `off`.

    `ram` fills the memory of each process. `disk` writes a file in `folder`, which later runs with the same data use
    again. Each process decodes its share of the files. Raises UserError if the cache does not fit, or a file cannot be
    read.
    """
    if place == "off":
        return None
    shape, copies = (len(pairs), 4, side, side), processes.local_world
    if place == "ram":
        place = f"RAM, {copies} times" if copies > 1 else "RAM"
        print_cache_size(shape, place, math.prod(shape) * copies, free_memory())
        pixels = torch.empty(shape, dtype=torch.uint8)
        for target, row in zip(pixels, read_pair_rows(pairs, side, mask_threshold, processes), strict=True):
            target.copy_(row)
        return pixels
    key = processes.compute_once(partial(compute_cache_key, pairs, side, mask_threshold))
    path = folder / f"cache-{key}.npy"
    if processes.compute_once(lambda: not path.is_file()):
        rows = read_pair_rows(pairs, side, mask_threshold, processes)
        if processes.first:
            write_rows(rows, shape, path)
        else:
            deque(rows, maxlen=0)
        processes.wait()
    if not processes.local_rank and not path.is_file():  # the machines share no disk
        write_rows(read_pair_rows(pairs, side, mask_threshold), shape, path)
    processes.wait()
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # copy-on-write: torch needs a writable array


def write_rows(rows: Iterator[Tensor], shape: tuple[int, ...], path: Path) -> None:
    print_cache_size(shape, f"disk ({path})", math.prod(shape), shutil.disk_usage(path.parent).free)
    with write_atomic(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for row in rows:
            file.write(row.numpy().tobytes())


def print_cache_size(shape: tuple[int, ...], where: str, need: int, free: int) -> None:
    """Prints the size of the cache. UserError if it needs more than nine tenths of the free space."""
    text = f"cache: {shape[0]} pairs at {shape[-1]}x{shape[-1]} take {need / 2**30:.2f} GiB of {where}"
    if need > 0.9 * free:
        other = "disk" if where.startswith("RAM") else "off"
        raise UserError(f"{text}, but {free / 2**30:.2f} are free; give --cache {other}")
    print_line(text)


def read_pair_rows(
    pairs: Sequence[Pair], side: int, mask_threshold: MaskRule, processes: Processes = ALONE
) -> Iterator[Tensor]:
    """Yields uint8 (4, side, side) for each pair, in order. One thread per core decodes files."""

    def read(index: int) -> Tensor | UserError:
        try:
            return torch.cat(pair_bytes(pairs[index], side, mask_threshold))
        except UserError as e:
            return e

    share = range(processes.rank, len(pairs), processes.world)
    with ThreadPoolExecutor(count_cores()) as pool:
        rows = processes.exchange(prefetch(pool, read, share, 4 * ROUND), len(pairs), ROUND)
        for row in tqdm(rows, total=len(pairs), desc="cache", leave=False, disable=None):
            if isinstance(row, UserError):
                raise row
            yield row


def compute_cache_key(pairs: Sequence[Pair], side: int, mask_threshold: MaskRule) -> str:
    """Returns a key of the content: the files with sizes and times, the resizing, and the version of Pillow."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for pair in pairs for path in pair]
    # Not a set: its order, and so the key, would differ from run to run.
    views = dict.fromkeys(pair.image.view for pair in pairs if isinstance(pair.image, Slice))
    return hashlib.sha256(repr((facts, side, mask_threshold, PIL.__version__, *views)).encode()).hexdigest()[:16]


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the bytes of memory that are free, as the kernel reports them for the machine and for the container.

    Pages that cache files count as free, because the kernel drops them if memory is needed. `cgroup` is the folder of
    the container's control group, version 2.
    """
    if not (table := Path("/proc/meminfo")).is_file():
        return sys.maxsize
    lines = (line.split() for line in table.read_text().splitlines())
    free = [next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")]
    limit = cgroup / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int((cgroup / "memory.current").read_text())
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        free.append(int(text) - used + int(counts["active_file"]) + int(counts["inactive_file"]))
    return min(free)
