"""The first phase of building an index: lists all files, and finds which masks belong to which image."""

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy import ndarray

from ...atomic import read_json
from ...errors import UserError, warn
from ..archives.contents import list_members
from ..archives.member import PLAIN, Member
from ..pairs import explain_no_folder
from ..volumes.slices import Source
from .columns import COLUMNS, KINDS, PLACE, pack_place
from .faults import Fault, find_known_fault
from .naming import IMAGE, MASK, FileRole, explain_names, find_role
from .table import pick_type


def hash_text(text: str) -> int:
    """Returns 64 bits that depend on the text alone."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


@dataclass
class KindColumns:
    """The columns of images or of masks while they are collected. `array` needs a tenth of the memory of a list."""

    places: BinaryIO
    size: int = 0
    ends: array = field(default_factory=lambda: array("q"))
    keys: array = field(default_factory=lambda: array("Q"))  # an image and its masks have the same one
    names: array = field(default_factory=lambda: array("Q"))  # two files with the same one are a mistake of the user
    facts: dict[str, array] = field(default_factory=dict)

    def add(self, place: bytes, key: int, has_twins: bool, **facts: int) -> None:
        """Adds a file. `has_twins` says that other files of this kind may have its key."""
        self.places.write(place)
        self.size += len(place)
        self.ends.append(self.size)
        self.names.append(len(self.keys) if has_twins else key)
        self.keys.append(key)
        for name, value in facts.items():
            self.facts.setdefault(name, array("Q" if name == "case" else "i")).append(value)

    def refuse_twins(self, kind: str) -> None:
        """Raises UserError if two files have the same name."""
        names = np.frombuffer(self.names, np.uint64)
        order = np.argsort(names, kind="stable")
        twins = np.flatnonzero(names[order[1:]] == names[order[:-1]])
        if len(twins):
            first, second = (self.read_path(row) for row in order[twins[0] :][:2].tolist())
            raise UserError(
                f"{len(twins)} {kind}s have the name of another one, for example {first} and {second}; rename or "
                "remove one of each"
            )

    def read_path(self, row: int) -> str:
        """Returns the path of a file, or its name inside the archive."""
        start = (self.ends[row - 1] if row else 0) + PLACE.size
        self.places.seek(start)
        return self.places.read(self.ends[row] - start).decode(errors="backslashreplace")


class ColumnWriter:
    """Collects images and masks, and writes their columns into a folder."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder = folder
        self.kinds = {kind: KindColumns(stack.enter_context(open(self.path(kind), "w+b"))) for kind in KINDS}
        self.names: dict[str, dict[str, int]] = {"modality": {}, "dataset": {}}  # name -> its number
        self.others = 0  # files that are neither

    def path(self, kind: str) -> Path:
        return self.folder / f"{kind}_places.bin"

    def add(self, number: int, source: Source, role: FileRole | None) -> None:
        """Adds a file of the source with this number."""
        if role is None:
            self.others += 1
            return
        key = hash_text(f"{number}:{role.key}")
        fault = int(Fault.KNOWN) if find_known_fault(role.dataset) else 0
        columns = self.kinds[role.kind]
        if role.kind == IMAGE:
            numbers = {kind: self.number(kind, getattr(role, kind)) for kind in self.names}
            case = hash_text(f"{role.dataset}/{role.case}")
            place = pack_place(number, source)
            columns.add(place, key, has_twins=False, **numbers, case=case, width=0, height=0, fault=fault)
            return
        has_twins = role.is_listed or role.class_id >= 0
        for row in range(max(role.rows, 1)):
            place = pack_place(number, to_row(source, row) if role.rows else source)
            numbers = {"class": role.class_id + row, "instance": role.instance, "foreground": -1, "fault": fault}
            columns.add(place, key, has_twins, **numbers)

    def number(self, kind: str, name: str) -> int:
        return self.names[kind].setdefault(name, len(self.names[kind]))

    def write(self) -> None:
        """Writes the columns. Warns about masks without image.

        UserError if no image has a mask, or two files have the same name.
        """
        image_keys, mask_keys = (np.frombuffer(self.kinds[kind].keys, np.uint64) for kind in KINDS)
        for kind, columns in self.kinds.items():
            columns.refuse_twins(kind)
        order, ends, unmatched = match_keys(image_keys, mask_keys)
        if not len(order):
            counts = f"{len(image_keys)} images, {len(mask_keys)} masks and {self.others} other files"
            raise UserError(f"no mask belongs to an image among {counts}; {explain_names()}")
        if unmatched:
            warn(f"{unmatched} of {len(mask_keys)} masks have no image and are left out")
        for kind, columns in self.kinds.items():
            columns.places.close()
            content = np.memmap(self.path(kind), np.uint8, "r") if columns.size else np.zeros(0, np.uint8)
            save_column(self.folder, f"{kind}_places", content)
            save_column(self.folder, f"{kind}_ends", np.frombuffer(columns.ends, np.int64))
            for name, values in columns.facts.items():
                column = f"{kind}_{name}"
                is_wide = len(self.names.get(name, ())) > np.iinfo(np.int16).max
                numbers = np.frombuffer(values, values.typecode)
                save_column(self.folder, column, numbers.astype(np.int32 if is_wide else COLUMNS[column]))
            self.path(kind).unlink()
        save_column(self.folder, "order", order)
        save_column(self.folder, "ends", ends)


def match_keys(images: ndarray, masks: ndarray) -> tuple[ndarray, ndarray, int]:
    """Returns the rows of the masks grouped by image, the end of each group, and the number of masks without image.

    `images` and `masks` are hashes, uint64 (N,) and (M,). No two images have the same hash.
    """
    by_key = np.argsort(images, kind="stable")
    keys = images[by_key]
    places = np.minimum(np.searchsorted(keys, masks), max(len(keys) - 1, 0))
    has_image = keys[places] == masks if len(keys) else np.zeros(len(masks), bool)
    rows = np.flatnonzero(has_image)
    owners = by_key[places[rows]]
    order = rows[np.argsort(owners, kind="stable")]
    ends = np.cumsum(np.bincount(owners, minlength=len(images)))
    return order.astype(pick_type(len(masks))), ends.astype(pick_type(len(rows))), len(masks) - len(rows)


def save_column(folder: Path, name: str, values: ndarray) -> None:
    np.save(folder / f"{name}.npy", values)


def to_row(source: Source, row: int) -> Source:
    """Returns one mask of a file that has a mask in each row."""
    if isinstance(source, Member):
        return replace(source, row=row)
    assert isinstance(source, Path)
    return Member(source, "", 0, source.stat().st_size, PLAIN, row)


def list_all(sources: Sequence[Path]) -> Iterator[tuple[int, Source, FileRole | None]]:
    """Yields every file in folders and archives, the number of its source, and its role."""
    for number, source in enumerate(sources):
        if source.is_dir():
            for path in walk_all(source):
                yield number, path, find_role(path.relative_to(source.parent).as_posix())
        elif source.suffix.lower() == ".json":
            yield from ((number, path, role) for path, role in read_list(source))
        else:
            for member in list_members(source):
                yield number, member, find_role(member.name_inside)


def walk_all(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and in the folders inside, sorted; then those of links to other folders.

    Each folder comes once, and links to folders above `folder` are left out. Raises UserError if a folder cannot be
    read.
    """
    seen, waiting = {identify_folder(path) for path in folder.parents}, [folder]
    while waiting:
        yield from walk_sorted(waiting.pop(0), seen, links=waiting)


def walk_sorted(folder: Path, seen: set[tuple[int, int]], links: list[Path]) -> Iterator[Path]:
    """Does the work of `walk_all` without links, and adds them to `links`. `seen` are the folders that do not count."""
    try:
        identity = identify_folder(folder)
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in found)
    except OSError as e:
        raise UserError(explain_no_folder(folder, e)) from e
    if identity in seen:
        return
    seen.add(identity)
    for name, is_folder, is_link in entries:
        if is_folder:
            yield from walk_sorted(folder / name, seen, links)
        elif is_link and (folder / name).is_dir():
            links.append(folder / name)
        else:
            yield folder / name


def identify_folder(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def read_list(path: Path) -> Iterator[tuple[Path, FileRole]]:
    """Yields the files of a list {image: [mask, ...]}. Paths start at the working folder, or at that of the list."""
    for number, (image, masks) in enumerate(read_json(path).items()):
        if not isinstance(masks, list) or not all(isinstance(mask, str) for mask in masks):
            raise UserError(f"{path} has no list of mask paths for {image}; wanted {{image: [mask, ...]}}")
        for kind, name in ((IMAGE, image), *((MASK, mask) for mask in masks)):
            file = Path(name)
            full = (file if file.exists() else path.parent / file).absolute()
            listed = FileRole(kind, str(number), "", file.stem, is_listed=True)
            if role := find_role(f"{kind}s/{file.name}"):
                listed = role._replace(key=str(number), is_listed=True)
            yield full, listed
