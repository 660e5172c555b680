"""The files of an index: one memory-mapped NumPy file for each column.

Letters: N images, M masks. An index is complete when it has `index.json`.
"""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy import ndarray

from ...atomic import read_json, sync_disk, write_atomic
from ...errors import UserError
from ..archives.contents import describe_archive
from ..archives.member import DEFLATED, PLAIN, STORED, Member
from ..packed import Packed
from ..volumes.slices import Source, find_file
from .table import ImageTable, Items, pick_type

FORMAT = 1
FACTS, PLAN = "index.json", "plan.json"  # of a complete index, and of one that is being built
COLUMNS = {  # name -> type; the columns of images, then those of masks
    "image_modality": np.int16,  # a number of a name; int32 if there are more; also for image_dataset
    "image_dataset": np.int16,
    "image_case": np.uint64,  # a hash
    "image_width": np.int32,  # 0: not checked; also for image_height
    "image_height": np.int32,
    "image_fault": np.uint8,  # `faults.Fault`
    "mask_class": np.int32,  # -1: the data set has no classes
    "mask_instance": np.int32,
    "mask_foreground": np.int32,  # pixels; -1: not checked
    "mask_fault": np.uint8,
}
KINDS = ("image", "mask")
METHODS = (PLAIN, STORED, DEFLATED)
FILE = len(METHODS)  # a file in a folder
PLACE = struct.Struct("<HBqqi")  # number of the source, method, start, length, row or -1


def pack_place(number: int, source: Source) -> bytes:
    """Returns how an image or a mask of the source with this number is stored in an index."""
    if isinstance(source, Member) and not source.name_inside:
        return PLACE.pack(number, FILE, 0, source.length, source.row) + os.fsencode(source.archive)
    if isinstance(source, Member):
        row = -1 if source.row is None else source.row
        place = PLACE.pack(number, METHODS.index(source.method), source.start, source.length, row)
        return place + source.name_inside.encode("utf-8", "surrogateescape")
    return PLACE.pack(number, FILE, 0, 0, -1) + os.fsencode(source)


@dataclass(frozen=True)
class PlaceReader:
    """Unpacks what `pack_place` packed."""

    archives: tuple[Path, ...]  # the sources, in the order of their numbers

    def __call__(self, packed: bytes) -> Source:
        number, method, start, length, row = PLACE.unpack_from(packed)
        name = packed[PLACE.size :].decode("utf-8", "surrogateescape")
        if method == FILE:
            return Path(name) if row < 0 else Member(Path(name), "", 0, length, PLAIN, row)
        return Member(self.archives[number], name, start, length, METHODS[method], None if row < 0 else row)


@dataclass(frozen=True)
class Index:
    """An index on disk."""

    folder: Path
    facts: dict[str, Any]  # the content of `index.json`
    table: ImageTable
    order: ndarray  # (M,), the rows of the masks, grouped by image

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Opens an index. Raises UserError if it is not complete, or an archive has changed."""
        if not (folder / FACTS).is_file():
            started = " yet; run sam2unet index again, it goes on" if (folder / PLAN).is_file() else ""
            raise UserError(f"{folder} is not a complete index{started or '; sam2unet index makes one'}")
        facts = read_json(folder / FACTS, "make the index again")
        if facts.get("format") != FORMAT:
            raise UserError(f"{folder} has another format of index; make it again with sam2unet index")
        refuse_changed(folder, facts["sources"])
        return cls.open_columns(folder, facts)

    @classmethod
    def open_columns(cls, folder: Path, facts: dict[str, Any]) -> "Index":
        """Opens the columns, also those of an index that is not complete. `facts` names its sources."""
        unpack = PlaceReader(tuple(Path(source["path"]) for source in facts["sources"]))
        images, masks = (
            Packed(load_column(folder, f"{kind}_places"), load_column(folder, f"{kind}_ends"), unpack) for kind in KINDS
        )
        columns = {name: load_column(folder, name) for name in COLUMNS}
        table = ImageTable(images, masks, load_column(folder, "ends"), columns)
        return cls(folder, facts, table, load_column(folder, "order"))

    @cached_property
    def items(self) -> Items:
        """All images with their masks."""
        count = len(self.table.images)
        return Items(self.table, np.arange(count, dtype=pick_type(count)), self.order, self.table.ends)

    @cached_property
    def has_equal_names(self) -> bool:
        """Whether two sources would give their images the same folder."""
        folders: dict[Path, str] = {}
        for facts in self.facts["sources"]:
            path = Path(facts["path"])
            if facts["parts"] and path.suffix.lower() == ".json":
                folders[path.parent] = ""
            else:
                folders[path] = path.stem if facts["parts"] else path.name
        return len(set(folders.values())) < len(folders)

    def name_image(self, source: Source) -> str:
        """Returns a name that no other image of the index has, without extension.

        It is the path inside the source. If two sources have the same name, it is the whole path.
        """
        if isinstance(source, Member):
            inside = PurePath(source.name_inside.lstrip("/")).with_suffix("")
            if self.has_equal_names:
                return str(source.archive.relative_to("/") / inside)
            return str(source.archive.stem / inside if len(self.facts["sources"]) > 1 else inside)
        path = find_file(source).with_suffix("")
        if self.has_equal_names:
            return str(path.relative_to("/"))
        roots = (Path(facts["path"]).parent for facts in self.facts["sources"])
        return str(next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path.relative_to("/")))

    def column(self, name: str) -> ndarray:
        return self.table.facts[name]


def load_column(folder: Path, name: str, mode: Any = "r") -> ndarray:
    """Opens a column. Raises UserError if its file is missing or damaged."""
    try:
        return np.load(folder / f"{name}.npy", mmap_mode=mode)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder / name}.npy is missing or damaged ({e}); make the index again") from e


def describe_source(path: Path) -> dict[str, object]:
    """Returns what an index stores about a source: its path, and of archives the bytes and times of their parts."""
    return {"path": str(path), "parts": []} if path.is_dir() else describe_archive(path)


def refuse_changed(folder: Path, sources: Sequence[dict[str, Any]]) -> None:
    """Raises UserError if a source is missing, or an archive is not the one that the index was made from."""
    for source in sources:
        path = Path(source["path"])
        if not path.exists():
            raise UserError(f"{path}, which the index {folder} needs, does not exist; move it back or index it again")
        if source["parts"] != describe_source(path)["parts"]:
            raise UserError(f"{path} has changed since the index {folder} was made; make the index again")


def write_facts(folder: Path, name: str, facts: dict[str, object]) -> None:
    """Writes the facts when the disk has the columns, so that they are true also after a power failure."""
    try:
        sync_disk(folder)
    except OSError as e:
        raise UserError(f"cannot write into {folder}: {e.strerror}") from e
    with write_atomic(folder / name) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())
