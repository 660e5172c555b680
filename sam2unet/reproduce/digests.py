"""SHA-256 digests of many files, by their path below a folder."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import sha256
from ..data.pairs import list_files
from ..run_command import IS_CHECKOUT, ROOT
from ..runtime.parallel import map_files

CODE = (".py", ".sh", ".yaml", ".html", ".css", ".js")
Digests = dict[str, str]  # path below a folder, with /, -> SHA-256 in hexadecimal


def digest_files(folder: Path, paths: Sequence[Path]) -> Digests:
    """Returns the digests of `paths`, which are below `folder`. Reads several files at once."""
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, map_files(sha256, paths), strict=True))


def digest_set(folder: Path) -> Digests:
    """Returns the digests of all images and masks of a data set: `images/a.jpg`, `masks/a.png` and so on."""
    return digest_files(folder, [path for kind in ("images", "masks") for path in list_files(folder / kind)])


def digest_code() -> Digests:
    """Returns the digests of the package and of the recipes, and in a checkout of the scripts."""
    names = ("sam2unet", "scripts", "configs") if IS_CHECKOUT else ("sam2unet",)
    paths = [path for name in names for path in (ROOT / name).rglob("*")]
    paths += ROOT.glob("*.py") if IS_CHECKOUT else ()
    return digest_files(ROOT, sorted(path for path in paths if path.suffix in CODE))


def format_digests(digests: Mapping[str, str]) -> str:
    """Returns the lines that `sha256sum --check` reads, sorted by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def combine_digests(digests: Mapping[str, str]) -> str:
    """Returns one SHA-256 for names and contents of all files: that of the text of `format_digests`."""
    return hashlib.sha256(os.fsencode(format_digests(digests))).hexdigest()
