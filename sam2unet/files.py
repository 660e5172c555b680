import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `path` once all of it is on disk. On any error `path` stays as it was.

    Raises UserError where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def filled_together(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which move to `folder` once all are there; on any error it stays as it was."""
    part = folder / f".{os.getpid()}.part"
    make_folder(part)
    try:
        yield part
        for file in part.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make `path` and its parents; UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {path}: {e.strerror}. Give another --save_path.") from e
    if not os.access(path, os.W_OK):
        raise UserError(f"no permission to write into {path}. Give another --save_path.")


@contextmanager
def folder_to_fill(path: Path) -> Iterator[None]:
    """`path` is made now, so that one that cannot be made ends the run at its start; on an error it goes if empty."""
    new = not path.exists()
    make_folder(path)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # it has something in it
                path.rmdir()
        raise


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
