"""Where maps go: files in a folder, or members of tar archives."""

import itertools
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import TracebackType

import numpy as np

from ...atomic import FileGroup, refuse_unmarked, write_atomic
from ...data.images.pictures import write_bytes
from ...data.packed import hash_all
from ...errors import UserError
from ...runtime.shards import Shard
from .outputs import Files

ARCHIVE = re.compile(r"maps(?:-(\d+)of(\d+))?-(\d{5,})\.tar")  # share, number of shares, number of the archive


class MapFolder:
    """A folder of maps. Threads can write at the same time. Each file is complete or absent."""

    def __init__(self, folder: Path):
        self.folder, self.group = folder, FileGroup(folder)

    def has_all(self, paths: Iterable[Path]) -> bool:
        return all(map(os.path.isfile, paths))

    def write(self, files: Files) -> None:
        for path, content in files.items():
            write_bytes(path, content, self.group)
        self.group.finish()

    def __enter__(self) -> "MapFolder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.group.close()


class MapArchive:
    """Tar archives in a folder, `maps-00000.tar` or `maps-2of8-00000.tar`. Each archive is complete or absent.

    The members have the names of the files in a folder of maps. They are not compressed. All files of an image are
    neighbours in one archive. One thread writes.
    """

    BYTES, MEMBERS = 10**9, 10_000  # an archive that has reached one of them is complete, and the next one starts

    def __init__(self, folder: Path, share: Shard, skip_existing: bool):
        self.folder, self.share, self.stack = folder, share, ExitStack()
        self.tar: tarfile.TarFile | None = None
        archives = self.list_archives()
        refuse_unmarked(folder, archives)
        if archives and not skip_existing:
            raise UserError(f"{archives[0]} exists; --skip_existing adds to it, or give another --save_path")
        names = itertools.chain.from_iterable(map(list_member_names, archives))
        self.hashes = np.sort(hash_all(names))  # a set of names would need ten times the memory

    def list_archives(self) -> list[Path]:
        """Returns the archives that may have maps of this share.

        They are all archives but those of the other shares of a run with the same number of shares.
        """
        number, count = map(str, self.share)
        matches = ((path, ARCHIVE.fullmatch(path.name)) for path in sorted(self.folder.glob("maps*.tar")))
        return [path for path, m in matches if m and ((m[2] or "1") != count or (m[1] or "1") == number)]

    def has_all(self, paths: Iterable[Path]) -> bool:
        hashes = hash_all(self.name_member(path) for path in paths)
        places = np.searchsorted(self.hashes, hashes).clip(max=max(len(self.hashes) - 1, 0))
        return bool(len(self.hashes)) and bool((self.hashes[places] == hashes).all())

    def name_member(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def write(self, files: Files) -> None:
        """Adds files. If the disk is full, the archive ends before them, or is removed. Then raises UserError."""
        if not files:
            return
        if self.tar and (self.tar.offset >= self.BYTES or len(self.tar.getmembers()) >= self.MEMBERS):
            self.close()
        tar = self.tar = self.tar or self.open()
        size = tar.offset
        try:
            for path, content in files.items():
                info = tarfile.TarInfo(self.name_member(path))
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
        except BaseException as e:  # also a signal: the archive ends after the files of the image before
            try:
                self.file.seek(size)
                self.file.truncate()
                tar.offset = size
            except OSError:
                self.tar = None
                self.stack.__exit__(type(e), e, e.__traceback__)  # removes the archive, and raises UserError
            if isinstance(e, OSError):
                raise UserError(f"cannot write into {self.folder}: {e.strerror or e}") from e
            raise

    def open(self) -> tarfile.TarFile:
        start = f"maps-{self.share.number}of{self.share.count}-" if self.share.count > 1 else "maps-"
        matches = map(ARCHIVE.fullmatch, os.listdir(self.folder))
        numbers = [int(m[3]) for m in matches if m and m[0] == f"{start}{m[3]}.tar"]
        path = self.folder / f"{start}{max(numbers, default=-1) + 1:05d}.tar"
        self.file = self.stack.enter_context(write_atomic(path))
        return self.stack.enter_context(tarfile.open(fileobj=self.file, mode="w"))

    def close(self) -> None:
        self.tar = None
        self.stack.close()

    def __enter__(self) -> "MapArchive":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def list_member_names(archive: Path) -> Iterator[str]:
    """Yields the names in an archive. Raises UserError if it cannot be read."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                yield member.name
    except (OSError, tarfile.TarError) as e:
        raise UserError(f"cannot read {archive}: {e}; remove it, and its maps are made again") from e
