"""Lists the members of zip and tar archives of any size. Only one entry at a time is in memory."""

import os
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError, warn
from .member import DEFLATED, PLAIN, STORED, ArchiveParts, Member, list_parts, open_parts

PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# The records of a zip, APPNOTE.TXT 4.3.12 to 4.3.16. Positions count from the start of a part ("disk").
END = struct.Struct("<4sHHHHIIH")  # signature, part, part of the table, entries here, entries, bytes, start, comment
LOCATOR64 = struct.Struct("<4sIQI")  # signature, part of END64, start of END64, number of parts
END64 = struct.Struct("<4sQHHIIQQQQ")  # ..., part, part of the table, entries here, entries, bytes, start
ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")  # of the table of contents
FULL2, FULL4 = 0xFFFF, 0xFFFFFFFF  # the value is in the extra field
METHODS = {0: STORED, 8: DEFLATED}
BLOCK = 1 << 22  # bytes that are read at once


def list_members(path: Path) -> Iterator[Member]:
    """Yields the files in a zip or an unpacked tar. Raises UserError if it is damaged, packed or encrypted."""
    name = path.name.lower()
    if name.endswith(PACKED_TARS):
        raise UserError(f"{path} is packed as a whole, so its files cannot be read in place; unpack it to a .tar first")
    try:
        for member in list_tar(path) if name.endswith(".tar") else list_zip(path):
            if ".." in member.name_inside.split("/"):  # maps get the names of their images
                raise UserError(f"{path}: the name {member.name_inside} leads out of its folder; pack it again")
            yield member
    except OSError as e:
        raise UserError(f"cannot read the archive {path}: {e.strerror}") from e
    except (struct.error, IndexError) as e:  # a record is too short, or names a part that does not exist
        raise UserError(f"{path} has a damaged table of contents; download it again") from e


def list_tar(path: Path) -> Iterator[Member]:
    links = 0
    try:
        with tarfile.open(path, "r:") as archive:
            while entry := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # otherwise the archive keeps every entry
                if entry.isreg() and not entry.issparse():
                    yield Member(path, entry.name, entry.offset_data, entry.size, PLAIN)
                links += not (entry.isreg() or entry.isdir())
            end = archive.offset
    except tarfile.TarError as e:
        raise UserError(f"{path} is not a tar archive, or damaged ({e}); replace it") from e
    refuse_rest(path, end)
    if links:
        warn(f"{links} links in {path} are left out; tar --dereference --hard-dereference packs files instead")


def refuse_rest(path: Path, end: int) -> None:
    """Raises UserError if a tar has more than zeros after its end, because `tarfile` stops at a damaged entry."""
    with open(path, "rb") as file:
        file.seek(end)
        while block := file.read(BLOCK):
            if block.strip(b"\0"):
                raise UserError(
                    f"{path} is damaged at byte {end}, or holds several archives; replace it, or give each alone"
                )


def list_zip(path: Path) -> Iterator[Member]:
    if re.fullmatch(r"\.z\d+", path.suffix.lower()):
        raise UserError(f"{path} is one part of a split zip; give the part that ends in .zip")
    if path.suffix.lower() != ".zip":
        raise UserError(f"{path} is not a folder, a .zip, a .tar or a .json list; unpack it, and give its folder")
    archive = open_parts(path)
    part, start, size, last_part = find_table(path, archive)
    if last_part >= len(archive.paths):
        raise UserError(
            f"{path} is the last of {last_part + 1} parts, but {len(archive.paths)} are in {path.parent}; download "
            f"{path.stem}.z01 to {path.stem}.z{last_part:02} into this folder"
        )
    if last_part + 1 < len(archive.paths):
        raise UserError(f"{archive.paths[last_part]} is not a part of {path}, which has {last_part + 1}; move it away")
    position = archive.ends[part] + start
    end, rest = position + size, b""
    while position < end or rest:
        if len(rest) < ENTRY.size + 3 * FULL2 and position < end:
            block = archive.read(position, min(BLOCK, end - position))
            position, rest = position + len(block), rest + block
        consumed = 0
        for member, length in parse_entries(path, archive, rest, complete=position >= end):
            consumed += length
            if member is not None:
                yield member
        rest = rest[consumed:]


def parse_entries(
    path: Path, archive: ArchiveParts, block: bytes, complete: bool
) -> Iterator[tuple[Member | None, int]]:
    """Yields the entries in a block of the table of contents, and the bytes of each. Folders give None."""
    position = 0
    while len(block) - position >= (1 if complete else ENTRY.size + 3 * FULL2):
        if len(block) - position < ENTRY.size or block[position : position + 4] != b"PK\1\2":
            raise UserError(f"{path} has a damaged table of contents; download it again")
        fields = ENTRY.unpack_from(block, position)
        flags, method, start = *fields[3:5], fields[16]
        length, size, name_length, extra_length, comment_length, part = fields[8:14]
        begin = position + ENTRY.size
        raw = block[begin : begin + name_length]
        name = raw.decode("utf-8" if flags & 0x800 else "cp437", "surrogateescape")
        if FULL4 in (length, size, start) or part == FULL2:
            extra = block[begin + name_length : begin + name_length + extra_length]
            length, part, start = read_extra(extra, size, length, start, part)
        if flags & 1 or method not in METHODS:
            what = "is encrypted" if flags & 1 else f"has the compression method {method}"
            raise UserError(f"{path}: {name} {what}, which cannot be read in place; unpack it and pack it again")
        used = ENTRY.size + name_length + extra_length + comment_length
        is_file = not name.endswith("/")
        yield (Member(path, name, archive.ends[part] + start, length, METHODS[method]) if is_file else None), used
        position += used


def read_extra(extra: bytes, size: int, length: int, start: int, part: int) -> tuple[int, int, int]:
    """Returns the length, the part and the start of a member, with the large values from its extra field (4.5.3)."""
    position = 0
    while position + 4 <= len(extra):
        kind, count = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            position += 4
            values = []
            for value in (size, length, start):
                if value == FULL4:
                    (value,) = struct.unpack_from("<Q", extra, position)
                    position += 8
                values.append(value)
            if part == FULL2:
                (part,) = struct.unpack_from("<I", extra, position)
            return values[1], part, values[2]
        position += 4 + count
    return length, part, start


def find_table(path: Path, archive: ArchiveParts) -> tuple[int, int, int, int]:
    """Returns where the table of contents is: part, start in this part, bytes; and the number of the last part."""
    tail_start = max(0, archive.size - END.size - FULL2)
    tail = archive.read(tail_start, archive.size - tail_start)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < END.size:
        raise UserError(f"{path} is not a zip archive, or its end is missing; download it again")
    _, last_part, part, _, entries, size, start, _ = END.unpack_from(tail, place)
    is_large = FULL4 in (size, start) or FULL2 in (last_part, part)
    locator = tail[max(0, place - LOCATOR64.size) : place]
    if is_large and not locator.startswith(b"PK\6\7"):
        raise UserError(f"{path} has a damaged end; download it again")
    if locator.startswith(b"PK\6\7") and (is_large or entries == FULL2):  # a small zip can have FULL2 entries
        _, end_part, end_start, parts = LOCATOR64.unpack(locator)
        if parts > len(archive.paths):
            return 0, 0, 0, parts - 1
        record = archive.read(archive.ends[end_part] + end_start, END64.size)
        *_, last_part, part, _, _, size, start = END64.unpack_from(record)
    if last_part >= len(archive.paths):
        return 0, 0, 0, last_part
    return part, start, size, last_part


def describe_archive(path: Path) -> dict[str, object]:
    """Returns the path of an archive, and the bytes and the time of each of its parts, to detect a changed archive."""
    stats = [os.stat(part) for part in list_parts(path)]
    return {"path": str(path), "parts": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}
