"""The second phase of building an index: reads images and masks in several processes, and stores what it found."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image
from tqdm import tqdm

from ...atomic import read_json
from ...errors import UserError
from ..archives.member import Member
from ..checks.check import Size, check_image
from ..images.grey_png import SIGNATURE, compile_undo_filters, decode_grey_png
from ..images.reading import open_image, rotate_upright, to_8_bit
from ..volumes.slices import Slice, Source
from .columns import COLUMNS, PLAN, Index, load, open_table
from .faults import Fault

CHUNK = 64  # images that a process checks at once


class ChunkFacts(NamedTuple):
    """What the check found in images and their masks."""

    rows: ndarray  # of the images
    masks: ndarray  # rows of the masks
    images: ndarray  # int32 (n, 3): width, height, fault
    found: ndarray  # int32 (m, 2): foreground, fault


def check_files(index: Index, sample: float, workers: int | None) -> None:
    """Checks the images that are not checked yet, and writes the results into the columns.

    `sample` is the fraction of the images that is checked. They lie evenly in the index.
    """
    columns = {name: load(index.folder, name, "r+") for name in COLUMNS}
    rows = np.arange(len(index.table.images))
    if sample < 1:
        rows = rows[(rows * sample).astype(np.int64) != ((rows + 1) * sample).astype(np.int64)]
    rows = rows[columns["image_fault"][rows] & Fault.CHECKED == 0]
    count = len(index.items.reorder(rows).masks)
    compile_undo_filters()  # once, before the processes start
    bar = tqdm(total=count, desc="checking", unit="mask", leave=False, disable=None)
    with ProcessPoolExecutor(workers or os.cpu_count(), initializer=ignore_interrupts) as pool, bar:
        for facts in run_bounded(pool, index.folder, rows):
            store(columns, facts)
            bar.update(len(facts.masks))


def run_bounded(pool: ProcessPoolExecutor, folder: Path, rows: ndarray) -> Iterator[ChunkFacts]:
    """Yields the results for all rows. Only a few chunks wait at a time."""
    waiting: list[Future[ChunkFacts]] = []
    for start in range(0, len(rows), CHUNK):
        waiting.append(pool.submit(check_chunk, folder, rows[start : start + CHUNK]))
        if len(waiting) > 4 * (os.cpu_count() or 1):
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


def store(columns: dict[str, ndarray], facts: ChunkFacts) -> None:
    """Writes the results. The faults of the images come last, because they mark the images that are done."""
    columns["mask_foreground"][facts.masks] = facts.found[:, 0]
    columns["mask_fault"][facts.masks] |= facts.found[:, 1].astype(np.uint8)
    columns["image_width"][facts.rows] = facts.images[:, 0]
    columns["image_height"][facts.rows] = facts.images[:, 1]
    columns["image_fault"][facts.rows] |= facts.images[:, 2].astype(np.uint8)


@lru_cache(maxsize=1)
def open_building(folder: Path) -> Index:
    """Opens an index that is being built, once in each process."""
    facts = read_json(folder / PLAN)
    return Index(folder, facts, open_table(folder, facts["sources"]), load(folder, "order"))


def check_chunk(folder: Path, rows: ndarray) -> ChunkFacts:
    """Checks images and their masks. Runs in a process of the pool."""
    index = open_building(folder)
    items = index.items.reorder(rows)
    masks, ends = items.masks, items.ends
    images, found = np.zeros((len(rows), 3), np.int32), np.zeros((len(masks), 2), np.int32)
    start = 0
    for i, end in enumerate(ends):
        try:
            size = read_intact_size(index.table.images[rows[i]])
            images[i] = (*size, Fault.CHECKED)
        except UserError:
            size, images[i] = None, (0, 0, Fault.CHECKED | Fault.UNREADABLE)
        for j in range(start, end):
            found[j] = check_mask(index.table.masks[masks[j]], size)
        start = end
    return ChunkFacts(rows, masks, images, found)


def read_intact_size(source: Source) -> Size:
    """Returns the size of an image. Raises UserError if the file is damaged.

    Of a PNG only the checksums are computed. This takes a twentieth of the time of decoding.
    """
    content = b"" if isinstance(source, Slice) else read_content(source)
    if not content.startswith(SIGNATURE) or b"eXIf" in content:
        return check_image(source)[0]
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            image.verify()
            return Size(*image.size)
    except Exception as e:  # Pillow raises exceptions of many kinds for damaged files
        raise UserError(f"cannot read {source}: damaged") from e


def read_content(source: Path | Member) -> bytes:
    try:
        return source.read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {source}: {e.strerror}") from e


def check_mask(source: Source, size: Size | None) -> tuple[int, int]:
    """Returns the number of foreground pixels of a mask, and its faults."""
    try:
        grey = None if isinstance(source, Slice) else decode_grey_png(source)
        if grey is None:
            with open_image(source) as image:
                grey = np.asarray(to_8_bit(rotate_upright(image), source).convert("L"))
    except UserError:
        return -1, Fault.CHECKED | Fault.UNREADABLE
    fault, top = Fault.CHECKED, int(grey.max())
    fault |= Fault.ONES * (top == 1)
    foreground = int(np.count_nonzero(grey == max(top, 1)))
    if not top:
        fault |= Fault.EMPTY
    elif top not in (1, 255):
        fault |= Fault.CODING
    elif np.count_nonzero(grey) != foreground:
        fault |= Fault.SOFT
    if size is not None and grey.shape != (size.height, size.width):
        fault |= Fault.SIZE
    return foreground, fault


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends the pool
