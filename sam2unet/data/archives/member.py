"""A file inside a zip or tar archive, which is read in place. It takes the place of the path of an image."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from ...errors import UserError

PLAIN, STORED, DEFLATED = "plain", "stored", "deflated"  # how a member is kept: in a tar, in a zip, packed in a zip
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip: signature, length of the name, length of the extra field
MOST_OPEN = 100  # archives that stay open
LARGEST = 1 << 30  # bytes of a packed member after unpacking


@dataclass(frozen=True, order=True)
class Member:
    """A member of an archive. `str()` gives the path of the archive, then the name inside it."""

    archive: Path  # of a split zip, the last part, whose name ends in .zip
    name_inside: str  # empty: `archive` is itself the file of which this is a row
    start: int  # the first byte: in a tar that of the content, in a zip that of the local header
    length: int  # the number of bytes in the archive
    method: str  # PLAIN, STORED or DEFLATED
    row: int | None = None  # of a file of SciPy with one mask in each row, the row

    @property
    def path(self) -> Path:
        return self.archive / self.name_inside

    @property
    def name(self) -> str:
        return self.path.name + ("" if self.row is None else f"/{self.row}")

    @property
    def stem(self) -> str:
        return self.path.stem + ("" if self.row is None else f"/{self.row}")

    @property
    def suffix(self) -> str:
        return self.path.suffix

    @property
    def parent(self) -> Path:
        return self.path.parent

    def stat(self) -> os.stat_result:
        return self.archive.stat()

    def resolve(self) -> "Member":
        return self

    def __str__(self) -> str:
        return str(self.path) + ("" if self.row is None else f"/{self.row}")

    def __fspath__(self) -> str:
        return str(self)

    def open(self) -> BytesIO:
        return BytesIO(self.read_bytes())

    def read_bytes(self) -> bytes:
        """Returns the content. Raises UserError if the archive has changed or is damaged."""
        archive = open_parts(self.archive)
        if self.method == PLAIN:
            return archive.read(self.start, self.length)
        # The extra field of the local header has another length than that of the table of contents.
        guess = LOCAL_HEADER.size + len(os.fsencode(self.name_inside)) + 64
        block = archive.read(self.start, guess + self.length, short=True)
        if len(block) < LOCAL_HEADER.size or block[:4] != b"PK\3\4":
            raise UserError(f"{self.archive} has changed: {self.name_inside} is at another place; make the index again")
        _, name_length, extra_length = LOCAL_HEADER.unpack_from(block)
        begin = LOCAL_HEADER.size + name_length + extra_length
        content = block[begin : begin + self.length]
        if len(content) < self.length:
            content = archive.read(self.start + begin, self.length)
        if self.method == STORED:
            return content
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = stream.decompress(content, LARGEST)
        except zlib.error as e:
            raise UserError(f"cannot read {self}: damaged ({e}); replace the archive") from e
        if not stream.eof:
            raise UserError(f"cannot read {self}: damaged, or more than {LARGEST >> 20} MiB; replace it")
        return unpacked


class ArchiveParts:
    """The parts of an archive as one sequence of bytes. Threads and forked processes can read at the same time.

    The files are closed with the last reference, because `open_parts` forgets archives while threads read them.
    """

    def __init__(self, paths: list[Path]):
        self.paths, self.files, self.ends = paths, [], [0]
        for path in paths:
            try:
                self.files.append(os.open(path, os.O_RDONLY))
            except OSError as e:
                raise UserError(f"cannot read the archive {path}: {e.strerror}") from e
            self.ends.append(self.ends[-1] + os.fstat(self.files[-1]).st_size)

    @property
    def size(self) -> int:
        return self.ends[-1]

    def read(self, start: int, length: int, short: bool = False) -> bytes:
        """Returns `length` bytes from position `start`. UserError if there are fewer, unless `short` allows it."""
        pieces, position, end = [], start, min(start + length, self.size)
        if not short and start + length > self.size:
            raise UserError(f"{self.paths[-1]} has changed: it is too short; make the index again")
        for file, low, high in zip(self.files, self.ends, self.ends[1:], strict=False):
            while low <= position < min(high, end):
                piece = os.pread(file, min(high, end) - position, position - low)
                if not piece:
                    raise UserError(f"{self.paths[-1]} became shorter while it was read; make the index again")
                pieces.append(piece)
                position += len(piece)
        return b"".join(pieces)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python ends
        for file in self.files:
            close(file)


@lru_cache(maxsize=MOST_OPEN)
def open_parts(path: Path) -> ArchiveParts:
    return ArchiveParts(list_parts(path))


def list_parts(path: Path) -> list[Path]:
    """Returns the parts of a split zip, `a.z01`, `a.z02`, ..., `a.zip`; of any other archive the path alone."""
    parts: list[Path] = []
    while path.suffix.lower() == ".zip" and (part := path.with_suffix(f".z{len(parts) + 1:02}")).is_file():
        parts.append(part)
    return [*parts, path]
