"""Remembers which files were checked, so that the next run does not decode them again."""

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import PIL

from ...atomic import make_folder, write_atomic
from ...errors import UserError
from ...runtime.versions import version
from ...weights.named import get_cache_folder
from ..packed import pack_source
from ..volumes.slices import Source

ROWS = 100_000  # results that a file keeps, the newest ones
FILES = 20  # files that stay in the cache folder
KEY = 16  # bytes
SETTLED = 2  # seconds. A younger file may change again without a new time, because clocks of file systems are coarse.


class CheckMemory:
    """The results of one kind of check. A result is a tuple of whole numbers.

    A file counts as changed if its path, size or time of modification is another one. A memory that cannot be read
    or written is empty.

    Args:
        kind: the kind of check and its settings, for example the rule for the values of masks.
    """

    def __init__(self, kind: str):
        facts = (kind, version("sam2unet"), PIL.__version__)
        self.path: Path | None = None
        self.results: dict[bytes, tuple[int, ...]] = {}
        self.is_changed = False
        with suppress(UserError, OSError, ValueError, EOFError, KeyError, BadZipFile):
            name = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
            self.path = get_cache_folder() / f"checked-{name}.npz"
            with np.load(self.path) as arrays:
                keys, rows = arrays["keys"].tobytes(), arrays["results"].tolist()
            places = range(0, len(keys), KEY)
            self.results = {keys[at : at + KEY]: tuple(row) for at, row in zip(places, rows, strict=True)}

    def make_key(self, source: Source, extra: object = None) -> bytes | None:
        """Returns the key of a file as it is now, or None if the file is too new or cannot be read."""
        try:
            stat = source.stat()
        except (OSError, ValueError):  # the check tells the reason
            return None
        if time.time() - stat.st_mtime < SETTLED:
            return None
        facts = (os.path.abspath(str(source)), pack_source(source), stat.st_size, stat.st_mtime_ns, extra)
        return hashlib.blake2b(repr(facts).encode(), digest_size=KEY).digest()

    def add(self, key: bytes | None, result: Sequence[int]) -> None:
        if key is not None and key not in self.results:
            self.results[key] = tuple(result)
            self.is_changed = True

    def save(self) -> None:
        """Writes the newest results, and removes the oldest files of other kinds."""
        if self.path is None or not self.is_changed:
            return
        newest = list(self.results.items())[-ROWS:]
        with suppress(UserError, OSError):
            make_folder(self.path.parent)
            keys = np.frombuffer(b"".join(key for key, _ in newest), np.uint8)
            with write_atomic(self.path) as file:
                np.savez(file, keys=keys, results=np.array([result for _, result in newest], np.int64))
            files = sorted(self.path.parent.glob("checked-*.npz"), key=lambda path: path.stat().st_mtime)
            for path in files[:-FILES]:
                path.unlink()
