"""Lists the image folders below a folder, on the disk and inside ZIP files. It opens no image and writes nothing."""

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...atomic import MARKER
from ...errors import UserError, shortlist
from ..pairs import EXTENSIONS, explain_no_folder

STEM_LISTS = ("train.txt", "test.txt")
LIST_BYTES = 50_000_000  # a larger text file is not a list of stems
OTHER_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz")
# The errors of a damaged ZIP file. RuntimeError includes methods of compression that Python does not know.
DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


class Archive(NamedTuple):
    """A ZIP file. `inner` is the name of a ZIP file inside it that contains the images, or empty."""

    path: Path
    inner: str = ""


class StoredFile(NamedTuple):
    """A file of a folder. `member` is its name in the archive, and `size` its bytes. On the disk: empty and None."""

    member: str = ""
    size: int | None = None


@dataclass(frozen=True)
class ListedFolder:
    """A folder that contains image files, on the disk or in an archive."""

    path: Path  # on the disk; in an archive, the path of the archive and then the path inside
    key: str  # the path in lower case with `/`, from the name of the root. Archives count as folders.
    archive: Archive | None
    files: dict[str, StoredFile]  # by file name

    def size(self, name: str) -> int:
        """Returns the number of bytes of a file. Raises UserError for a symbolic link to a file that is not there."""
        size = self.files[name].size
        try:
            return (self.path / name).stat().st_size if size is None else size
        except OSError as e:
            raise UserError(f"cannot read {self.path / name}: {e.strerror}; remove or replace it") from e


@dataclass
class Listing:
    """What is below a root: the folders whose key `is_wanted` accepts, lists of stems by key, and notes for the user.

    `without` is a folder that is left out. `archives` says whether ZIP files are searched. `other_archives` are those
    that are not ZIP files.
    """

    root: Path
    is_wanted: Callable[[str], bool]
    without: Path | None = None
    archives: bool = True
    folders: list[ListedFolder] = field(default_factory=list)
    stem_lists: dict[str, frozenset[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    other_archives: list[Path] = field(default_factory=list)


def list_folders(
    root: Path, is_wanted: Callable[[str], bool], without: Path | None = None, archives: bool = True
) -> Listing:
    """Lists the image folders below `root`, which is a folder or a ZIP file. Folders on the disk come first.

    It leaves out hidden folders, `__MACOSX`, and folders that scripts of this project made. Raises UserError if `root`
    cannot be read.
    """
    listing = Listing(root, is_wanted, without, archives)
    name = root.resolve().name.casefold()
    if archives and root.is_file() and root.suffix.lower() == ".zip":
        add_archive(listing, Archive(root), root, strip_zip(name))
        return listing
    try:
        os.listdir(root)
    except OSError as e:
        raise UserError(explain_no_folder(root, e)) from e
    add_tree(listing, name)
    if listing.other_archives:
        names = shortlist(sorted(listing.other_archives))
        listing.notes.append(f"only ZIP files are searched; unpack these if they contain data sets: {names}")
    listing.folders.sort(key=lambda folder: (folder.archive is not None, folder.path))
    return listing


def add_tree(listing: Listing, name: str) -> None:
    """Adds the folders on the disk and in the ZIP files among them. `name` is the key of the root."""
    queue, identities = [(listing.root, name)], {identify(listing.without)} if listing.without else set()
    while queue:
        path, key = queue.pop()
        identity = identify(path)
        if identity in identities:
            continue
        identities.add(identity)  # a symbolic link to a folder above would have no end
        images, folders, archives = {}, [], []
        try:
            if path != listing.root and (path / MARKER).exists():
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if is_hidden(entry.name):
                        continue
                    elif suffix in EXTENSIONS:
                        images[entry.name] = StoredFile()
                    elif entry.is_dir():
                        folders.append((path / entry.name, f"{key}/{entry.name.casefold()}"))
                    elif suffix == ".zip" and listing.archives:
                        archives.append(path / entry.name)
                    elif suffix in OTHER_ARCHIVES:
                        listing.other_archives.append(path / entry.name)
                    elif is_stem_list(entry):
                        add_stem_list(listing, f"{key}/{entry.name.casefold()}", Path(entry.path).read_bytes())
        except OSError as e:
            listing.notes.append(f"{explain_no_folder(path, e)}; it is left out")
            continue
        if images and listing.is_wanted(key):
            listing.folders.append(ListedFolder(path, key, None, images))
        for archive in archives:
            add_archive(listing, Archive(archive), archive, f"{key}/{strip_zip(archive.name)}")
        queue += folders


def is_stem_list(entry: os.DirEntry) -> bool:
    return entry.name.casefold() in STEM_LISTS and entry.is_file() and entry.stat().st_size <= LIST_BYTES


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() == "__macosx"


def identify(folder: Path) -> tuple[int, int]:
    """Returns device and inode of a folder, which are the same for all paths that lead to it."""
    try:
        status = os.stat(folder)
    except OSError:
        return -1, hash(folder)  # the caller finds out why it cannot be read
    return status.st_dev, status.st_ino


def strip_zip(name: str) -> str:
    """Returns the name in lower case without `.zip`, and without ` (1)`, which browsers add to a second download."""
    return re.sub(r"( \(\d+\))?(\.zip)+$", "", name.casefold())


def add_archive(listing: Listing, archive: Archive, path: Path, key: str) -> None:
    """Adds the folders of a ZIP file, and of ZIP files directly inside it. A damaged file becomes a note."""
    try:
        with open_archive(archive) as file:
            inner = add_members(listing, file, archive, path, key)
    except (*DAMAGES, OSError) as e:
        listing.notes.append(f"{path} cannot be read: {e}; download it again")
        return
    for member in inner:
        add_archive(listing, Archive(archive.path, member), path / member, f"{key}/{strip_zip(member)}")


@contextmanager
def open_archive(archive: Archive) -> Iterator[zipfile.ZipFile]:
    """Opens a ZIP file, or a ZIP file inside one, without unpacking it."""
    with zipfile.ZipFile(archive.path) as outer:
        if not archive.inner:
            yield outer
            return
        with outer.open(archive.inner) as stream, zipfile.ZipFile(stream) as inner:
            yield inner


def add_members(listing: Listing, file: zipfile.ZipFile, archive: Archive, path: Path, key: str) -> list[str]:
    """Adds the folders of an open ZIP file. Returns the ZIP files inside it, if `archive` is not inside another one.

    Symbolic links, encrypted files, and names that lead out of the archive are left out.
    """
    folders: dict[PurePosixPath, dict[str, StoredFile]] = {}
    inner, locked_count = [], 0
    for info in file.infolist():
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or inside.is_absolute() or stat.S_ISLNK(info.external_attr >> 16):
            continue
        if any(map(is_hidden, inside.parts)):  # also `..`
            continue
        suffix = inside.suffix.lower()
        if info.flag_bits & 1:
            locked_count += 1
        elif suffix in EXTENSIONS:
            folders.setdefault(inside.parent, {})[inside.name] = StoredFile(info.filename, info.file_size)
        elif suffix == ".zip" and not archive.inner:
            inner.append(info.filename)
        elif inside.name.casefold() in STEM_LISTS and info.file_size <= LIST_BYTES:
            add_stem_list(listing, f"{key}/{inside}".casefold(), file.read(info))
    if locked_count:
        listing.notes.append(f"{path} needs a password for {locked_count} files, which are left out; unpack it")
    for folder, files in folders.items():
        folder_key = key if folder == PurePosixPath(".") else f"{key}/{folder}".casefold()
        if listing.is_wanted(folder_key):
            listing.folders.append(ListedFolder(path / folder, folder_key, archive, files))
    return inner


def add_stem_list(listing: Listing, key: str, content: bytes) -> None:
    """Reads a list with the name or the path of a file on each line."""
    lines = content.decode(errors="replace").splitlines()
    paths = (PurePosixPath(line.strip().replace("\\", "/")) for line in lines if line.strip())
    names = (path.stem if path.suffix.lower() in EXTENSIONS else path.name for path in paths)
    listing.stem_lists[key] = frozenset(names)
