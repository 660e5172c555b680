"""Sequences of millions of texts or sources in two arrays, so that they need no Python object for each element.

Forked processes share the arrays. A list of Python objects would be copied page by page, because reading an object
changes its reference count.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
from numpy import ndarray

from .slices import Source

T = TypeVar("T")
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
