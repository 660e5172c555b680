"""Makes `NAME/images` and `NAME/masks` in a data root from copies of data sets: links, copies or unpacked files."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from tqdm import tqdm

from ...atomic import MARKER, PART, claim_folder, make_folder, read_text, write_atomic
from ...errors import UserError, print_line, printable, warn
from ...runtime.parallel import default_workers, prefetch
from ..images.masks import FOREGROUND, MaskCoding, read_mask
from .find import DataCopy
from .listing import DAMAGES, Archive, ListedFolder
from .table import EXACT

JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class SourceFolder:
    """A folder to take files from, on the disk or in one of `archives`."""

    folder: ListedFolder
    archives: Archives
    copy: bool  # copy files of the disk instead of linking them

    def place(self, name: str, target: Path) -> None:
        """Makes `target` a link to the file `name`, or a copy of it. Leaves it as it is if that is done already."""
        source = (self.folder.path / name).absolute()
        if not (self.copy or self.folder.archive):
            if not os.path.lexists(target):
                link(source, target)
            is_right = target.is_symlink() and os.readlink(target) == str(source)
        else:
            if not os.path.lexists(target):
                self.write(name, target)
            is_right = not target.is_symlink() and target.stat().st_size == self.folder.size(name)
        if not is_right:
            raise UserError(f"{target} is not the file that this script makes from {source}; remove it")

    def write(self, name: str, target: Path) -> None:
        """Writes the content of the file `name` to `target`."""
        archive, member = self.archives.open(self.folder), self.folder.files[name].member
        with write_atomic(target) as file:
            try:
                with archive.open(member) if archive else open(self.folder.path / name, "rb") as stream:
                    shutil.copyfileobj(stream, file, 1 << 20)
            except DAMAGES as e:
                raise UserError(f"{self.folder.path / name} is damaged ({e}); download the archive again") from e

    @contextmanager
    def open_path(self, name: str, folder: Path) -> Iterator[Path]:
        """Yields a path to the file `name` on the disk. A file of an archive is unpacked into `folder` meanwhile."""
        if self.folder.archive is None:
            yield self.folder.path / name
            return
        path = folder / f".{name}{PART}"
        self.write(name, path)
        try:
            yield path
        finally:
            path.unlink()


def link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError as e:
        raise UserError(f"cannot make the link {target}: {e.strerror}; --copy makes copies instead of links") from e


class Archives:
    """Opens each archive at its first use. A ZIP file inside another one is unpacked into `folder` for that time."""

    def __init__(self, folder: Path):
        self.folder, self.stack, self.lock = folder, ExitStack(), threading.Lock()
        self.files: dict[Archive, ZipFile] = {}

    def __enter__(self) -> Archives:
        for path in self.folder.glob(f".*.zip{PART}"):  # from a call that was killed
            path.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def open(self, folder: ListedFolder) -> ZipFile | None:
        """Returns the open archive of a folder, or None for a folder on the disk. Raises UserError if it is damaged."""
        archive = folder.archive
        with self.lock:
            if archive and archive not in self.files:
                try:
                    self.files[archive] = self.open_new(archive)
                except (*DAMAGES, OSError) as e:
                    raise UserError(f"cannot unpack {folder.path}: {e}; download the archive again") from e
            return self.files.get(archive) if archive else None

    def open_new(self, archive: Archive) -> ZipFile:
        file = self.stack.enter_context(ZipFile(archive.path))
        if not archive.inner:
            return file
        check_space(self.folder, archive.inner, file.getinfo(archive.inner).file_size)
        path = self.folder / f".{len(self.files)}.zip{PART}"
        self.stack.callback(path.unlink, missing_ok=True)
        with file.open(archive.inner) as stream, open(path, "wb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)
        return self.stack.enter_context(ZipFile(path))


def prepare_sets(copies: Sequence[DataCopy], data_root: Path, copy: bool = False) -> list[str]:
    """Makes the folder of each copy in `data_root`. Returns the names of those that failed, after a warning."""
    make_folder(data_root, "--data_root")
    failed = []
    with lock_folder(data_root), Archives(data_root) as archives:
        for item in copies:
            try:
                prepare_set(item, data_root, archives, copy)
            except (UserError, OSError) as e:
                warn(f"{item.name} is not ready: {e}")
                failed.append(item.name)
    return failed


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """A context for one process at a time. Another process waits."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def prepare_set(item: DataCopy, data_root: Path, archives: Archives, copy: bool) -> None:
    """Makes `data_root/NAME` from a copy. The folder appears when it is complete. A second call completes it.

    A folder that another program made, or that was made from another copy, stays as it is.
    """
    kind = "as copies" if copy else "as links"
    content = printable(f"{item.name} {kind}, {len(item.pairs)} pairs of {item.location()}")
    target, part = data_root / item.name, data_root / f".{item.name}{PART}"
    is_new = not os.path.lexists(target)
    if is_new:
        if part.exists() and read_marker(part) != content:
            shutil.rmtree(part)  # an unfinished folder from another copy
        claim_folder(part, content)
    elif (marker := read_marker(target)) != content:
        reason = f"it was made for {marker}; remove it to make it again" if marker else "this script did not make it"
        print_line(f"note: {target} stays as it is; {reason}")
        return
    sources = [SourceFolder(folder, archives, copy) for folder in (item.images, item.masks) if folder]
    count = place_pairs(item, part if is_new else target, sources)
    if is_new:
        for path in part.glob(f"*/.*{PART}"):  # from a call that was killed
            path.unlink()
        os.rename(part, target)
    if count:
        print_line(f"note: {count} masks of {item.name} were thresholded at {FOREGROUND} and written as PNG")
    print_line(f"{target}: {len(item.pairs)} pairs")


def read_marker(folder: Path) -> str:
    """Returns what a script of this project made the folder for, or empty text."""
    return read_text(folder / MARKER).strip() if (folder / MARKER).is_file() else ""


def place_pairs(item: DataCopy, folder: Path, sources: Sequence[SourceFolder]) -> int:
    """Places all images and masks of a copy in `folder`. Returns how many masks it thresholded now."""
    images, masks = sources
    targets = folder / "images", folder / "masks"
    for path in targets:
        make_folder(path)
    sizes = [
        source.folder.size(name)
        for pair in item.pairs
        for name, source, target in zip(pair, sources, targets, strict=True)
        if (source.copy or source.folder.archive) and not (target / name).exists()
    ]
    check_space(folder, item.name, sum(sizes))

    def place_pair(pair: tuple[str, str]) -> bool:
        images.place(pair[0], targets[0] / pair[0])
        if Path(pair[1]).suffix.lower() in JPEG or item.name in EXACT:
            return place_binary_mask(masks, pair[1], targets[1])
        masks.place(pair[1], targets[1] / pair[1])
        return False

    count = default_workers()
    with ThreadPoolExecutor(count) as pool:
        results = prefetch(pool, place_pair, item.pairs, 2 * count)
        return sum(tqdm(results, desc=item.name, total=len(item.pairs), leave=False, disable=None))


def place_binary_mask(masks: SourceFolder, name: str, folder: Path) -> bool:
    """Places a mask that must have only 0 and 255. Returns whether it was thresholded, which makes it a PNG.

    JPEG masks are always thresholded.
    """
    target, is_jpeg = folder / f"{Path(name).stem}.png", Path(name).suffix.lower() in JPEG
    if target.exists() or (folder / name).exists() and not is_jpeg:
        return False
    with masks.open_path(name, folder) as path:
        try:
            grey = read_mask(path, FOREGROUND if is_jpeg else None)
        except MaskCoding:
            grey = None  # the checks before a training name the values of such masks
        if grey and (is_jpeg or any(grey.histogram()[1:255])):
            binary = grey.point([255 * (level > FOREGROUND) for level in range(256)])
            with write_atomic(target) as file:
                binary.save(file, "PNG")
            return True
    masks.place(name, folder / name)
    return False


def check_space(folder: Path, name: str, size: int) -> None:
    """Raises UserError if `size` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if size >= free:
        need, have = size / 1e9, free / 1e9
        raise UserError(f"{name} needs {need:.1f} GB in {folder}, which has {have:.1f} GB; give another --data_root")
