"""The images of a prediction with the names of their maps, and the masks that belong to them."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
from numpy import ndarray

from ...data.archives.member import Member
from ...data.index.columns import Index
from ...data.index.table import ImageSequence, Items
from ...data.packed import LazySequence, Mapped, Packed, find_positions, hash_all, read_all
from ...data.pairs import EXTENSIONS
from ...data.volumes.open import STACKS, is_volume, open_volume
from ...data.volumes.slices import Slice, Source, find_file, list_slices
from ...errors import UserError, shortlist, warn
from ...runtime.shards import Shard
from ...slice_view import SliceView

PICTURES = tuple(ending for ending in EXTENSIONS if ending not in STACKS)


class Input(NamedTuple):
    """An image and the name of its map: without extension, with the folders between the source and the image."""

    path: Source
    name: str


class Inputs(LazySequence[Input]):
    """The images of a prediction, in the order of their files. A volume has an image for each slice.

    A file takes a few bytes more than its name. The slices of a volume are listed when they are read.

    Args:
        texts: relative to `root`; the text of a folder with a DICOM series ends with a slash.
        order: int64 (files,), the positions in `texts`.
        root: the folder of the files. The names of the maps have the folders below it. None: the texts are whole paths.
    """

    def __init__(self, texts: Packed[str], order: ndarray, root: Path | None, view: SliceView):
        self.texts, self.order, self.root, self.view = texts, order, root, view

    def take(self, positions: ndarray | slice) -> "Inputs":
        """Returns the files at `positions`."""
        return Inputs(self.texts, self.order[positions], self.root, self.view)

    def share(self, shard: Shard) -> "Inputs":
        """Returns the files of a share. All slices of a volume are in one share."""
        return self.take(slice(shard.number - 1, None, shard.count))

    @cached_property
    def files(self) -> Sequence[Input]:
        """The files. A volume is one input."""
        return Mapped(lambda place: self.make_input(self.texts[int(place)]), self.order)

    def list_files(self) -> Iterator[Input]:
        return map(self.make_input, read_all(self.texts, self.order))

    def list_names(self) -> Iterator[str]:
        """Yields the name of the map of each file."""
        return map(self.name_map, read_all(self.texts, self.order))

    def make_input(self, text: str) -> Input:
        return Input(Path(text) if self.root is None else self.root / text, self.name_map(text))

    def name_map(self, text: str) -> str:
        name = text if self.root else text.rstrip("/").rpartition("/")[2]
        if text.endswith("/"):
            return name.rstrip("/")
        return name[:-7] if name.lower().endswith(".nii.gz") else os.path.splitext(name)[0]

    def list_folders(self) -> Iterator[Input]:
        """Yields at least one file of each folder with inputs."""
        folder = None
        for text in read_all(self.texts, self.order):
            parent = text[: text.rfind("/", 0, -1) + 1]
            if parent != folder:
                folder = parent
                yield self.make_input(text)

    @cached_property
    def volumes(self) -> list[int]:
        """The positions of the files that may be volumes."""
        texts = read_all(self.texts, self.order)
        return [position for position, text in enumerate(texts) if not is_picture(text)]

    @cached_property
    def starts(self) -> ndarray:
        """int64 (files + 1,): the number of images before each file, and the number of all images."""
        counts = np.ones(len(self.order), np.int64)
        for position in self.volumes:
            counts[position] = len(cut_input(self.files[position], self.view))
        return np.concatenate([np.zeros(1, np.int64), counts.cumsum()])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, index: int) -> Input:
        position = int(np.searchsorted(self.starts, index, "right")) - 1
        return cut_input(self.files[position], self.view)[index - int(self.starts[position])]

    def __iter__(self) -> Iterator[Input]:
        return (part for item in self.list_files() for part in cut_input(item, self.view))


class IndexInputs(Inputs):
    """The images of an index."""

    def __init__(self, opened: Index, items: Items, view: SliceView):
        self.opened, self.items, self.view = opened, items, view

    def take(self, positions: ndarray | slice) -> "IndexInputs":
        chosen = np.arange(len(self.items))[positions] if isinstance(positions, slice) else positions
        return IndexInputs(self.opened, self.items.reorder(chosen), self.view)

    @cached_property
    def files(self) -> Sequence[Input]:
        return Mapped(lambda image: Input(image, self.opened.name_image(image)), ImageSequence(self.items))

    @cached_property
    def volumes(self) -> list[int]:
        return []

    def list_files(self) -> Iterator[Input]:
        return iter(self.files)

    def list_names(self) -> Iterator[str]:
        return (item.name for item in self.files)

    def list_folders(self) -> Iterator[Input]:
        return iter(self.files[:1])  # `find_jobs` refuses targets inside the folders of an index

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Input:
        return self.files[index]

    def __iter__(self) -> Iterator[Input]:
        return iter(self.files)


def find_masks(inputs: Inputs, masks: Inputs, source: Path, mask_folder: Path) -> ndarray:
    """Returns the position in `masks` of the file with the name of each file of `inputs`, int64.

    UserError if an image has no mask. Warns about other masks.
    """
    places = find_positions(hash_all(inputs.list_names()), hash_all(masks.list_names()))
    unpaired = np.flatnonzero(places < 0)
    refuse_unpaired(Mapped(lambda i: inputs.files[i].path.name, unpaired), len(places), mask_folder)
    spare = np.flatnonzero(np.bincount(places, minlength=len(masks.order)) == 0)
    if len(spare):
        names = shortlist(Mapped(lambda i: masks.files[i].path.name, spare))
        warn(f"{len(spare)} masks in {mask_folder} have no image in {source} and are left out: {names}")
    return places


def refuse_unpaired(names: Sequence[str], count: int, mask_folder: Path) -> None:
    """Raises UserError if there are `names` of images without mask."""
    if names:
        raise UserError(
            f"{len(names)} of {count} images have no mask: {shortlist(names)} "
            f"(masks looked for in {mask_folder}; a mask has its image's name, whatever the extension)"
        )


def cut_input(item: Input, view: SliceView) -> list[Input]:
    """Returns the slices of a volume. For an image, and for a volume that cannot be opened, returns the item."""
    if isinstance(item.path, Member) or is_picture(item.path.name) and not view.window:
        return [item]
    try:
        path = find_file(item.path)
        open_volume(path) if is_volume(path) else None
    except UserError:
        return [item]  # the error appears when it is read, so that a run can leave it out
    parts = list_slices(path, view)
    return [Input(part, f"{item.name}/{part.index:04d}" if is_slice(part) else item.name) for part in parts]


def is_slice(source: Source | None) -> TypeGuard[Slice]:
    """Returns whether it is a slice of a volume. A picture with more than 8 bits is a `Slice` without index."""
    return isinstance(source, Slice) and source.index is not None


def is_picture(text: str) -> bool:
    """Returns whether a file has a single image, by its name. A TIFF file may have slices."""
    return text.lower().endswith(PICTURES)
