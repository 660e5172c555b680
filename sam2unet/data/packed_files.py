"""Lists of files in packed sequences: the images of a folder, parts of a list, and names that two lists share."""

import os
import pickle
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy import ndarray

from .packed import OTHER, Packed, pack, pack_source, pack_texts, unpack_source
from .pairs import EXTENSIONS, is_path_list, list_file_names, list_images
from .volumes.slices import Source

T = TypeVar("T")
NOTHING = OTHER + pickle.dumps(None)  # a source that is missing


def pack_images(folder: Path, volumes: bool = False) -> tuple[Packed[str], Packed[Source]]:
    """Returns the names and the files that `list_images` returns, in its order. Raises the same errors."""
    names = [] if is_path_list(folder) else list_file_names(folder, volumes)
    if names and names[0].lower().endswith(EXTENSIONS):  # then all are images
        folders = set()
        if volumes:
            with os.scandir(folder) as entries:
                folders = {entry.name for entry in entries if entry.is_dir()}
        stems = pack_texts(name if name in folders else name.rpartition(".")[0] for name in names)
        endings = {name.rpartition(".")[2] for name in names}
        if len(endings) == 1 and folders.isdisjoint(names) or len(np.unique(hash_elements(stems))) == len(stems):
            prefix = str(folder / "x")[:-1]
            return stems, Packed(*pack(map(os.fsencode, names)), partial(unpack_name, prefix))
    files = list_images(folder, volumes)
    return pack_texts(files), Packed(*pack(map(pack_source, files.values())), unpack_source)


def unpack_name(prefix: str, packed: bytes) -> Source:
    """Returns the path of a file from its name. `prefix` is its folder with a slash. A file can be missing: None."""
    return unpack_source(packed) if packed == NOTHING else Path(prefix + os.fsdecode(packed))


def pack_optional(sources: Iterable[Source | None]) -> Packed[Source | None]:
    """Packs sources, of which some are missing."""
    return Packed(*pack(NOTHING if source is None else pack_source(source) for source in sources), unpack_source)


def read_element(packed: Packed, index: int) -> bytes:
    """Returns the bytes of an element. `index` is from 0."""
    return packed.content[packed.ends[index - 1] if index else 0 : packed.ends[index]].tobytes()


def cut(elements: Sequence[T], start: int, stop: int) -> Sequence[T]:
    """Returns the elements from `start` to before `stop`. Those of a packed sequence stay packed and are not copied."""
    if not isinstance(elements, Packed):
        return elements[start:stop]
    ends = elements.ends[start:stop]
    first = elements.ends[start - 1] if start else 0
    return Packed(elements.content[first : ends[-1] if len(ends) else first], ends - first, elements.unpack)


def take(elements: Packed[T], places: ndarray) -> Packed[T]:
    """Returns the elements at `places`, (M,), packed. Of sources, the place -1 gives None."""
    if np.array_equal(places, np.arange(len(elements))):
        return elements
    return Packed(*pack(read_element(elements, i) if i >= 0 else NOTHING for i in places), elements.unpack)


def find_missing(elements: Packed) -> ndarray:
    """Returns the places of the missing sources."""
    lengths = np.diff(elements.ends, prepend=0)
    return np.array([i for i in np.flatnonzero(lengths == len(NOTHING)) if elements[int(i)] is None], np.int64)


def find_places(names: Packed[str], others: Packed[str]) -> ndarray:
    """Returns the place of each name in `others`, int64 (N,). -1 if it is not there. No name occurs twice."""
    if np.array_equal(names.ends, others.ends) and np.array_equal(names.content, others.content):
        return np.arange(len(names))
    hashes, wanted = hash_elements(others), hash_elements(names)
    order = np.argsort(hashes)
    if (np.diff(hashes[order]) == 0).any():  # by chance, two names have the same hash
        table = {read_element(others, i): i for i in range(len(others))}
        return np.array([table.get(read_element(names, i), -1) for i in range(len(names))], np.int64)
    places = order[np.searchsorted(hashes, wanted, sorter=order).clip(max=len(others) - 1)]
    candidates = np.flatnonzero(hashes[places] == wanted)
    same = [i for i in candidates if read_element(names, i) == read_element(others, places[i])]
    found = np.full(len(names), -1, np.int64)
    found[same] = places[same]
    return found


def hash_elements(packed: Packed) -> ndarray:
    """Returns a hash of each element, int64 (N,). Another process computes other hashes."""
    return np.fromiter((hash(read_element(packed, i)) for i in range(len(packed))), np.int64, len(packed))
