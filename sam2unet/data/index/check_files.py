"""The second phase of building an index: reads images and masks in several processes, and stores what it found."""

import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image
from tqdm import tqdm

from ...atomic import read_json
from ...errors import UserError
from ...runtime.parallel import count_cores, prefetch
from ...runtime.signals import end_with_parent
from ..archives.member import Member
from ..checks.check import Size, check_image
from ..images.grey_png import SIGNATURE, compile_undo_filters, decode_grey_png
from ..images.masks import MaskCoding, check_coding
from ..images.reading import open_image, rotate_upright, to_grey
from ..volumes.slices import Slice, Source
from .columns import COLUMNS, PLAN, Index, load_column
from .faults import Fault

CHUNK = 64  # images that a process checks at once


class ChunkFacts(NamedTuple):
    """What the check found in images and their masks."""

    images: ndarray  # (n,), the rows of the images
    masks: ndarray  # (m,), the rows of the masks
    image_facts: ndarray  # int32 (n, 3): width, height, fault
    mask_facts: ndarray  # int32 (m, 2): foreground, fault


def check_files(index: Index, sample: float, workers: int | None) -> None:
    """Checks the images that are not checked yet, and writes the results into the columns.

    `sample` is the fraction of the images that is checked. They lie evenly in the index.
    """
    columns = {name: load_column(index.folder, name, "r+") for name in COLUMNS}
    rows = np.arange(len(index.table.images))
    if sample < 1:
        rows = rows[(rows * sample).astype(np.int64) != ((rows + 1) * sample).astype(np.int64)]
    rows = rows[columns["image_fault"][rows] & Fault.CHECKED == 0]
    count = len(index.items.reorder(rows).masks)
    compile_undo_filters()  # once, before the processes start
    bar = tqdm(total=count, desc="checking", unit="mask", leave=False, disable=None)
    chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
    workers = workers or count_cores()
    with ProcessPoolExecutor(workers, initializer=prepare_checker) as pool, bar:
        try:
            for facts in prefetch(pool, partial(check_chunk, index.folder), chunks, 4 * workers):
                store_facts(columns, facts)
                bar.update(len(facts.masks))
        except BrokenProcessPool as e:
            raise UserError(
                "the system has ended a process that checks files, perhaps because memory was short; the same command "
                "goes on, for example with a smaller --workers"
            ) from e


def store_facts(columns: dict[str, ndarray], facts: ChunkFacts) -> None:
    """Writes the results. The faults of the images come last, because they mark the images that are done."""
    columns["mask_foreground"][facts.masks] = facts.mask_facts[:, 0]
    columns["mask_fault"][facts.masks] |= facts.mask_facts[:, 1].astype(np.uint8)
    columns["image_width"][facts.images] = facts.image_facts[:, 0]
    columns["image_height"][facts.images] = facts.image_facts[:, 1]
    columns["image_fault"][facts.images] |= facts.image_facts[:, 2].astype(np.uint8)


@lru_cache(maxsize=1)
def open_building(folder: Path) -> Index:
    """Opens an index that is being built, once in each process."""
    return Index.open_columns(folder, read_json(folder / PLAN))


def check_chunk(folder: Path, rows: ndarray) -> ChunkFacts:
    """Checks images and their masks. Runs in a process of the pool."""
    index = open_building(folder)
    items = index.items.reorder(rows)
    image_facts, mask_facts = np.zeros((len(rows), 3), np.int32), np.zeros((len(items.masks), 2), np.int32)
    start = 0
    for i, end in enumerate(items.ends):
        try:
            size = read_intact_size(index.table.images[rows[i]])
            image_facts[i] = (*size, Fault.CHECKED)
        except UserError:
            size, image_facts[i] = None, (0, 0, Fault.CHECKED | Fault.UNREADABLE)
        for j in range(start, end):
            mask_facts[j] = check_mask(index.table.masks[items.masks[j]], size)
        start = end
    return ChunkFacts(rows, items.masks, image_facts, mask_facts)


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
    except (OSError, ValueError) as e:  # ValueError: a NUL character in the name
        raise UserError(f"cannot read {source}: {e}") from e


def check_mask(source: Source, size: Size | None) -> tuple[int, int]:
    """Returns the number of foreground pixels of a mask, and its faults."""
    image = None
    try:
        grey = None if isinstance(source, Slice) else decode_grey_png(source)
        if grey is None:
            with open_image(source) as opened:
                image = rotate_upright(opened)
                grey = np.asarray(to_grey(image, source))
    except UserError:
        return -1, Fault.CHECKED | Fault.UNREADABLE
    top = int(grey.max())
    foreground = int(np.count_nonzero(grey == max(top, 1)))
    is_soft = np.count_nonzero(grey) != foreground
    fault = Fault.CHECKED | Fault.ONES * (top == 1)
    if not top:
        fault |= Fault.EMPTY
    elif top not in (1, 255):
        fault |= Fault.CODING
    elif (is_soft or image) and top == 255 and not can_train_on(image or Image.fromarray(grey), source):
        fault |= Fault.CODING
    elif is_soft:
        fault |= Fault.SOFT
    if size is not None and grey.shape != (size.height, size.width):
        fault |= Fault.SIZE
    return foreground, fault


def can_train_on(mask: Image.Image, source: Source) -> bool:
    """Returns whether training reads this mask: for example not a label map, or a mask with colours."""
    try:
        check_coding(mask, source)
    except MaskCoding:
        return False
    return True


def prepare_checker() -> None:
    """Prepares a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends the pool
    end_with_parent()
