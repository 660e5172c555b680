"""Writes files completely or not at all, never overwrites files of the user, and reads text, JSON and YAML."""

import ctypes
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from .errors import UserError, shortlist

PART = ".sam2unet.part"  # the end of the names of unfinished files
MARKER = ".sam2unet"  # a file that marks a folder which a script of this project made


class FileGroup:
    """Files in a folder that get their names together, about once per second.

    Before that, the group waits until the disk has the bytes of all of them. This is faster than waiting after each
    file. So a file with its own name is complete, also after a power failure. If the process is killed, the files
    without a name are lost. Several threads can share a group.
    """

    def __init__(self, folder: Path):
        self.folder, self.waiting = folder, list[tuple[Path, Path]]()
        self.lock, self.time = threading.Lock(), time.monotonic()
        self.wait = 1.0  # seconds

    def add(self, part: Path, path: Path) -> None:
        with self.lock:
            self.waiting.append((part, path))

    def close(self) -> None:
        """Names all files. A file that a thread adds later gets its name at once."""
        self.wait = 0.0
        self.finish()

    def finish(self) -> None:
        """Names the files, if `wait` seconds have passed since the last time."""
        with self.lock:
            if not self.waiting or time.monotonic() - self.time < self.wait:
                return
            files, self.waiting, self.time = self.waiting, [], time.monotonic()
        try:
            sync_disk(self.folder)
            while files:
                os.replace(*files[-1])
                files.pop()
        except OSError as e:
            raise UserError(f"cannot write {files[-1][1]}: {e.strerror or e}") from e
        finally:
            for part, _ in files:
                with suppress(OSError):
                    part.unlink(missing_ok=True)


def sync_disk(folder: Path) -> None:
    """Waits until the disk of `folder` has all bytes that were written. Raises OSError if it cannot store them."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # not on Linux
        os.sync()
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(number):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(number)


@contextmanager
def write_atomic(path: Path, group: FileGroup | None = None) -> Iterator[BinaryIO]:
    """Yields a file to write to. It becomes `path` when it is complete, or when its group finishes.

    Raises UserError if it cannot be written.
    """
    # The temporary name is longer than `path`, which may be as long as the file system allows. Several machines may
    # share the folder, and their processes may have the same number.
    name = path.name if len(os.fsencode(path.name)) < 100 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    part = path.with_name(f".{name}.{platform.node()[:64]}.{os.getpid()}{PART}")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            if group is None:
                os.fsync(file.fileno())
        if group is None:
            os.replace(part, path)
        else:
            group.add(part, path)
    except BaseException as e:
        with suppress(OSError):  # the first error is the one to report
            part.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise UserError(f"cannot write {path}: {e.strerror or e}") from e
        raise


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """Yields a folder for files. At the end they move to `folder`. An error before that leaves `folder` unchanged."""
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


def make_folder(path: Path, flag: str = "--save_path") -> None:
    """Makes `path` and its parents. Raises UserError if that is not possible. `flag` is the flag that names `path`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {path}: {e.strerror}. Give another {flag}.") from e
    if not os.access(path, os.W_OK):
        raise UserError(f"no permission to write into {path}. Give another {flag}.")


def claim_folder(folder: Path, content: str) -> bool:
    """Makes `folder` for `content` and marks it. Returns True if an earlier call marked it for the same content.

    Raises UserError for a folder with other files, so that no file of the user is overwritten.
    """
    marker = folder / MARKER
    # The names come first, because another process may mark the folder at this moment.
    names = os.listdir(folder) if folder.is_dir() else []
    if marker.is_file():
        if (marked := read_text(marker).strip()) != content:
            raise UserError(f"{folder} was made for {marked}, not for {content}; give another --save_path")
        return True
    if folder.exists() and not folder.is_dir() or not all(name.endswith(PART) for name in names):
        raise UserError(f"{folder} holds files that this script did not make; give another --save_path")
    make_folder(folder)
    with write_atomic(marker) as file:
        file.write(f"{content}\n".encode())
    return False


def refuse_existing(*paths: Path) -> None:
    """Raises UserError if one of the files exists."""
    if existing := next((path for path in paths if path.exists()), None):
        raise UserError(f"{existing} exists and is not overwritten; remove it, or give another name")


def refuse_other_results(folder: Path, names: Sequence[str]) -> None:
    """Raises UserError if `folder` has files with these names that no earlier run wrote. One name is `results.json`."""
    existing = [name for name in names if (folder / name).exists()]
    with suppress(UserError):
        if "versions" in read_json(folder / "results.json"):
            return
    if existing:
        raise UserError(f"{folder} holds {shortlist(existing)}, which this project did not write; give another folder")


def refuse_unmarked(folder: Path, paths: Iterable[Path]) -> None:
    """Raises UserError if one of the files exists and `folder` has no marker of this project."""
    if not (folder / MARKER).is_file() and (existing := [path for path in paths if path.exists()]):
        raise UserError(
            f"{folder} holds {shortlist([p.name for p in existing])}, not from test.py; give another --save_path"
        )


@contextmanager
def create_folder(path: Path, content: str | None = None, is_shared: bool = False) -> Iterator[None]:
    """Makes the folder `path`, with a marker for `content`. After an error, removes it if it is new and empty.

    It stays if it `is_shared`: other processes may be about to write into it.
    """
    new, marker = not is_shared and not path.exists(), path / MARKER
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
            with suppress(OSError):  # it is not empty
                path.rmdir()
        raise


def read_start(path: Path, count: int) -> bytes:
    """Returns the first `count` bytes of a file. Raises UserError if it does not exist or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a file")
        with open(path, "rb") as file:
            return file.read(count)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise UserError(f"no such file: {path}") from e
    except (OSError, ValueError) as e:  # ValueError: a NUL character in the name
        raise UserError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e


# The SHA-256 of files that another process has read for this one, by path, size and time of modification.
known_digests: dict[tuple[str, int, int], str] = {}


def make_digest_key(path: Path) -> tuple[str, int, int]:
    stat = os.stat(path)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    if known_digests and (key := make_digest_key(path)) in known_digests:
        return known_digests[key]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not text in UTF-8; give another file") from e


def read_json(path: Path, advice: str = "write it again", kind: type = dict) -> Any:
    """Returns the object, or the list, in a JSON file. Raises UserError, which ends in `advice`, for other content."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise UserError(f"{path} is nested too deep for JSON of this project; {advice}") from e
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}; {advice}") from e
    if not isinstance(content, kind):
        wanted = "an object of names with values" if kind is dict else "a list"
        raise UserError(f"{path} holds a {type(content).__name__}, not {wanted}; {advice}")
    return content


class RepeatedKey(yaml.YAMLError):
    """A mapping has a key twice."""


class YamlLoader(yaml.BaseLoader):
    """Reads all values as text. Refuses a mapping with two equal keys, of which PyYAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise RepeatedKey(f"{key.value} occurs twice, again in line {key.start_mark.line + 1}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, text: str | None = None) -> dict[str, Any]:
    """Returns the mapping in a YAML file. All values are text, because PyYAML guesses types: 2e-4, off, 2024-13-45.

    `text` is YAML or JSON that is stored inside the file `path`. Raises UserError if the content is not a mapping, or a
    key occurs twice.
    """
    text = read_text(path) if text is None else text
    try:
        values = yaml.load(text, Loader=YamlLoader)
    except RecursionError as e:
        raise UserError(f"{path} is nested too deep for YAML of this project; write it again") from e
    except RepeatedKey as e:
        raise UserError(f"{path}: {e}; remove one of them") from e
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if values is not None and not isinstance(values, dict) and values != "":
        raise UserError(f"{path} must hold lines of the form `key: value`")
    return {str(key): value for key, value in (values or {}).items()}
