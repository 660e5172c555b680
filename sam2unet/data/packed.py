"""Sequences of millions of texts or sources in two arrays, so that they need no Python object for each element.

Forked processes share the arrays. A list of Python objects would be copied page by page, because reading an object
changes its reference count.
"""

import os
import pickle
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
from numpy import ndarray

from .volumes.slices import Source

T = TypeVar("T")
R = TypeVar("R")
PATH, OTHER = b"p", b"o"  # the first byte of a packed source


class LazySequence(Sequence[T], Generic[T]):
    """A sequence whose elements are made when they are read, by `read`, which takes an index from 0."""

    def read(self, index: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no element {index} of {len(self)}")
        return self.read(int(index) % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self.read, range(len(self)))


class Packed(LazySequence[T]):
    """A sequence of elements that are unpacked when they are read.

    Args:
        content: uint8, the bytes of all elements, one after another.
        ends: int64 (N,), the position after the last byte of each element.
    """

    def __init__(self, content: ndarray, ends: ndarray, unpack: Callable[[bytes], T]):
        self.content, self.ends, self.unpack = content, ends, unpack

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, index: int) -> T:
        start = self.ends[index - 1] if index else 0
        return self.unpack(self.content[start : self.ends[index]].tobytes())


def pack(parts: Iterable[bytes]) -> tuple[ndarray, ndarray]:
    """Returns the bytes of all parts as uint8, and the end of each part as int64 (N,)."""
    content, ends = bytearray(), []
    lengths = bytearray()
    for part in parts:
        content += part
        ends.append(len(content))
        if len(ends) == 2**16:  # a list of a million numbers would need 32 MB
            lengths += np.array(ends, np.int64).tobytes()
            ends.clear()
    lengths += np.array(ends, np.int64).tobytes()
    return np.frombuffer(bytes(content), np.uint8), np.frombuffer(bytes(lengths), np.int64)


def pack_texts(texts: Iterable[str]) -> Packed[str]:
    """Packs texts, for example names of files."""
    return Packed(*pack(map(os.fsencode, texts)), unpack_text)


def unpack_text(packed: bytes) -> str:  # not `os.fsdecode`, which cannot be pickled
    return os.fsdecode(packed)


def pack_sources(sources: Iterable[Source]) -> Packed[Source]:
    """Packs paths, slices and other sources of images."""
    return Packed(*pack(map(pack_source, sources)), unpack_source)


def pack_source(source: Source) -> bytes:
    return PATH + os.fsencode(source) if isinstance(source, Path) else OTHER + pickle.dumps(source)


def unpack_source(packed: bytes) -> Source:
    return Path(os.fsdecode(packed[1:])) if packed[:1] == PATH else pickle.loads(packed[1:])


class Mapped(LazySequence[R], Generic[T, R]):
    """The elements of another sequence after a function, which is called when an element is read."""

    def __init__(self, function: Callable[[T], R], items: Sequence[T] | ndarray):
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> R:
        return self.function(self.items[index])

    def __iter__(self) -> Iterator[R]:
        return map(self.function, self.items)


def read_all(packed: Packed[T], places: ndarray) -> Iterator[T]:
    """Yields the elements at `places`. This is four times as fast as reading them one by one."""
    content = memoryview(packed.content)  # type: ignore[arg-type]  # an array is a buffer
    for start in range(0, len(places), 4096):
        part = places[start : start + 4096]
        ends, starts = packed.ends[part], np.where(part > 0, packed.ends[part - 1], 0)
        for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield packed.unpack(bytes(content[first:end]))


def hash_all(items: Iterable[Hashable]) -> ndarray:
    """Returns the hash of each element, int64. Two of 20 million different names have one hash in 1 of 100,000 runs."""
    return np.fromiter(map(hash, items), np.int64)


def find_positions(values: ndarray, others: ndarray) -> ndarray:
    """Returns the first position of each value in `others`, int64, or -1 if it does not occur."""
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    places = np.searchsorted(ordered, values).clip(max=max(len(others) - 1, 0))
    return np.where(ordered[places] == values, order[places], -1) if len(others) else np.full(len(values), -1)


def sort_paths(content: ndarray, ends: ndarray) -> ndarray:
    """Returns the positions of packed paths in the order of `sorted(map(Path, texts))`: folder by folder.

    It sorts by the last eight bytes first, and then by the eight bytes before them. It makes no Python objects.
    """
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    lengths = ends - starts
    order = np.arange(len(ends))
    for column in range(int(lengths.max(initial=0)) // 8 * 8, -1, -8):
        is_longer = lengths[order] > column
        longer = order[is_longer]
        words = np.zeros(len(longer), np.uint64)
        for place in range(column, column + 8):
            has_byte = lengths[longer] > place
            letters = np.zeros(len(longer), np.uint8)
            letters[has_byte] = content[starts[longer[has_byte]] + place]
            letters[letters == ord("/")] = 0  # a folder comes before all files whose names start with its name
            words = words << np.uint64(8) | letters
        order = np.concatenate([order[~is_longer], longer[np.argsort(words, kind="stable")]])
    return order
