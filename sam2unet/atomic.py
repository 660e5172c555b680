import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import yaml

from .errors import UserError, shortlist

PART = ".sam2unet.part"  # ends the names of files that are being written
MARKER = ".sam2unet"  # a file in a folder that a script of this project made for itself


@contextmanager
def write_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `path` once all of it is on disk. On any error `path` stays as it was.

    Raises UserError where it cannot be written.
    """
    # A long name is shortened, for a file system that has room for `path` has none for a longer one.
    name = path.name if len(os.fsencode(path.name)) < 100 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    part = path.with_name(f".{name}.{os.getpid()}{PART}")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        with suppress(OSError):  # what is told is why it could not be written
            part.unlink(missing_ok=True)


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which move to `folder` once all are there; on any error it stays as it was."""
    make_folder(folder)
    part = Path(tempfile.mkdtemp(prefix=".", suffix=PART, dir=folder))
    try:
        yield part
        for file in part.iterdir():
            os.replace(file, folder / file.name)
    except OSError as e:
        raise UserError(f"cannot write into {folder}: {e.strerror or e}: {e.filename2 or e.filename}") from e
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


def claim_folder(folder: Path, content: str) -> bool:
    """Make `folder` for `content` and mark it. Returns whether an earlier call marked it for the same content.

    UserError for a folder with anything else in it, so that nothing of the user's is overwritten.
    """
    marker = folder / MARKER
    if marker.is_file():
        if (found := read_text(marker).strip()) != content:
            raise UserError(f"{folder} was made for {found}, not for {content}; give another --save_path")
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds files that this script did not make; give another --save_path")
    make_folder(folder)
    with write_atomic(marker) as file:
        file.write(f"{content}\n".encode())
    return False


def refuse_existing(*paths: Path) -> None:
    """UserError for a file to write that is there already, whoever made it."""
    if there := next((path for path in paths if path.exists()), None):
        raise UserError(f"{there} is there already and is not overwritten; remove it, or give another name")


def refuse_other_results(folder: Path, names: Sequence[str]) -> None:
    """UserError if `folder` has files with these names, `results.json` among them, that no earlier run wrote."""
    there = [name for name in names if (folder / name).exists()]
    with suppress(UserError):
        if "versions" in read_json(folder / "results.json"):
            return
    if there:
        raise UserError(f"{folder} holds {shortlist(there)}, which this project did not write; give another folder")


def refuse_unmarked(folder: Path, paths: Iterable[Path]) -> None:
    """UserError if one of the files to write exists, and `folder` has no marker of this project."""
    if not (folder / MARKER).is_file() and (there := [path for path in paths if path.exists()]):
        raise UserError(
            f"{folder} holds {shortlist([p.name for p in there])}, not from test.py; give another --save_path"
        )


@contextmanager
def create_folder(path: Path, content: str | None = None) -> Iterator[None]:
    """Make `path` before the work starts. After an error, remove it if it is new and nothing was written into it.

    Args:
        content: what the marker of the folder says; None leaves the folder without a marker.
    """
    new, marker = not path.exists(), path / MARKER
    make_folder(path)
    if content and not marker.exists():
        with write_atomic(marker) as file:
            file.write(f"{content}\n".encode())
    try:
        yield
    except BaseException:
        if new:
            if [*path.iterdir()] == [marker]:
                marker.unlink()
            with suppress(OSError):  # it has something in it
                path.rmdir()
        raise


def read_start(path: Path, count: int) -> bytes:
    """Returns the first `count` bytes of a file; UserError if it is not there or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a file")
        with open(path, "rb") as file:
            return file.read(count)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise UserError(f"no such file: {path}") from e
    except (OSError, ValueError) as e:  # ValueError: a NUL character in the name
        raise UserError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not text in UTF-8; give another file") from e


def read_json(path: Path, advice: str = "write it again") -> dict[str, object]:
    """The object in a JSON file, names with values. UserError, which ends in `advice`, for any other content."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise UserError(f"{path} is nested too deep for JSON of this project; {advice}") from e
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}; {advice}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not an object of names with values; {advice}")
    return content


def read_yaml(path: Path) -> dict[str, object]:
    """The mapping in a YAML file. All scalars are text, so that PyYAML does not guess types: 2e-4, off, 2024-13-45.

    UserError for any other content.
    """
    text = read_text(path)
    try:
        values = yaml.load(text, Loader=yaml.BaseLoader)
    except RecursionError as e:
        raise UserError(f"{path} is nested too deep for YAML of this project; write it again") from e
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if values is not None and not isinstance(values, dict) and values != "":
        raise UserError(f"{path} must hold lines of the form `key: value`")
    return {str(key): value for key, value in (values or {}).items()}
