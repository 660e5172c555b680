"""Finds the inputs of a prediction: a folder, a tree of folders, a file, a list of files or a pattern."""

import glob
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ...data.archives.member import Member
from ...data.index.columns import Index
from ...data.index.table import ImageSequence, Items
from ...data.packed import LazySequence, Mapped, Packed, find_positions, hash_all, pack_texts, read_all, sort_paths
from ...data.pairs import EXTENSIONS, explain_no_folder
from ...data.volumes.open import STACKS, VOLUMES, is_volume, open_volume
from ...data.volumes.slices import Slice, Source, find_file, list_slices
from ...errors import UserError, shortlist, warn
from ...runtime.shards import Shard
from ...slice_view import DEFAULT_VIEW, SliceView

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".3gp", ".gif")
IMAGES = (*EXTENSIONS, *VOLUMES, "/")  # the ends of names of images; a slash ends the name of a folder
PICTURES = tuple(ending for ending in EXTENSIONS if ending not in STACKS)
CHECKED_LINES = 20_000  # of a list of files, so many are looked for before the prediction starts


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


def find_inputs(source: Path, recursive: bool = False, view: SliceView = DEFAULT_VIEW) -> Inputs:
    """Returns the images of `source`, sorted; of a volume all slices. Warns about videos, which it leaves out.

    `source` is a folder, an image, a text file with a path per line, relative to the text file, or a pattern with `*`;
    or a volume, or a folder of volumes. Raises UserError if it does not exist or has no image, or if two maps would
    have the same name.
    """
    videos: list[str] = []
    root = source if source.is_dir() and not is_volume(source) else None
    if root:
        texts = (text for text in walk_files(source, recursive) if is_image_name(text) or note_video(text, videos))
        where = "folders inside are not searched; --recursive does" if not recursive else "nor in the folders inside"
        nothing = f"no images in {source} (looked for {', '.join(EXTENSIONS)}; {where})"
    elif source.suffix.lower() == ".txt" and source.is_file():
        texts, nothing = (mark_folder(path) for path in read_lines(source)), f"{source} lists no files"
    elif source.is_file() or source.is_dir():
        texts, nothing = (mark_folder(path) for path in [source]), ""
    elif glob.has_magic(str(source)):
        paths = map(Path, glob.iglob(str(source), recursive=True))
        texts, nothing = (mark_folder(path) for path in paths if is_image(path)), f"no images match {source}"
    else:
        raise UserError(f"no such folder: {source}" if not source.suffix else f"no such file or folder: {source}")
    packed = pack_texts(texts)
    if not len(packed):
        raise UserError(f"{nothing}; give each video by itself: {shortlist(sorted(videos))}" if videos else nothing)
    if videos:
        names = shortlist(sorted(videos))
        warn(f"{len(videos)} videos in {source} are left out, give each by itself: {names}")
    inputs = Inputs(packed, sort_paths(packed.content, packed.ends), root, view)
    refuse_equal_names(inputs, source)
    return inputs


def refuse_equal_names(inputs: Inputs, source: Path) -> None:
    """Raises UserError if two files have the same name without extension."""
    hashes = hash_all(inputs.list_names())
    first = find_positions(hashes, hashes)
    repeated = np.flatnonzero(first < np.arange(len(first)))
    if len(repeated):
        files = inputs.files
        twins = Mapped[int, str](lambda i: f"{files[int(first[i])].path.name} and {files[i].path.name}", repeated)
        raise UserError(f"files with the same stem in {source}: {shortlist(twins)}; their maps would have one name")


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
    return [
        Input(
            part, f"{item.name}/{part.index:04d}" if isinstance(part, Slice) and part.index is not None else item.name
        )
        for part in list_slices(path, view)
    ]


def walk_files(folder: Path, recursive: bool) -> Iterator[str]:
    """Yields the files in a folder, relative to it, and with a slash at the end the folders of DICOM series inside.

    UserError if it cannot be read. Warns about folders inside that cannot be read.
    """
    waiting, failed = [""], list[str]()
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(folder / here) as entries:
                for entry in entries:
                    text = f"{here}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        yield text
                    elif is_volume(Path(entry.path)):
                        yield f"{text}/"
                    elif recursive and not entry.is_symlink():
                        waiting.append(f"{text}/")
        except OSError as e:
            if not here:
                raise UserError(explain_no_folder(folder, e)) from e
            failed.append(str(folder / here))
    if failed:
        warn(f"{len(failed)} folders cannot be read and are left out: {shortlist(failed)}")


def read_lines(file: Path) -> Iterator[Path]:
    """Yields the paths in a text file. UserError if one of the first `CHECKED_LINES` does not exist.

    If a later one does not exist, the error appears when it is read.
    """
    count, gone = 0, list[Path]()
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            for part in line.splitlines():  # also at separators that a file does not end lines with
                if part.strip():
                    path = file.parent / part.strip()
                    count += 1
                    if count <= CHECKED_LINES and not os.path.exists(path):
                        gone.append(path)
                    yield path
    if gone:
        raise UserError(f"{len(gone)} of {count} files in {file} do not exist: {shortlist(gone)}")


def mark_folder(path: Path) -> str:
    """Returns the path as text, with a slash at the end if it is a folder."""
    is_folder = not is_picture(path.name) and os.path.isdir(path)
    return f"{path}/" if is_folder else str(path)


def is_image_name(text: str) -> bool:
    """Returns whether it is the name of an image or a volume, or a folder with a slash at the end."""
    return text.lower().endswith(IMAGES)


def is_picture(text: str) -> bool:
    """Returns whether a file has a single image, by its name. A TIFF file may have slices."""
    return text.lower().endswith(PICTURES)


def is_image(path: Path) -> bool:
    return not path.name.startswith(".") and (path.suffix.lower() in EXTENSIONS or is_volume(path))


def note_video(text: str, videos: list[str]) -> bool:
    """Adds the text to `videos` if it is the name of a video. Returns False."""
    if is_video(Path(text)):
        videos.append(text)
    return False


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS
