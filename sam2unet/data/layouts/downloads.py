"""From a folder of downloads to the folders `NAME/images` and `NAME/masks` of a data root."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError, print_line, print_lines, printable
from .find import DataCopy, choose_copies, find_copies
from .prepare import prepare_sets
from .table import COUNTS

TITLES = ("set", "split", "location", "pairs", "published", "verdict")


def prepare_downloads(
    downloads: Path, data_root: Path, names: Sequence[str] = (), copy: bool = False, anyway: bool = False
) -> list[str]:
    """Finds the known data sets in `downloads`, prints a table of them, and prepares them in `data_root`.

    Changes nothing in `downloads`. Returns the data sets that are there and not ready. Raises UserError if there is
    none.

    Args:
        names: prepare only these data sets. Empty: all.
        copy: copy files instead of linking them.
        anyway: also accept another split than that of the papers.
    """
    downloads, data_root = (Path(os.path.abspath(path)) for path in (downloads, data_root))
    if downloads == data_root:
        raise UserError(f"{downloads} is also the data root, and nothing is changed there; give another --data_root")
    copies, notes = find_copies(downloads, without=data_root)
    copies = [item for item in copies if not names or item.name in (*names, "?")]
    choice, copies = choose_copies(copies, anyway)
    for note in notes:
        print_line(f"note: {note}")
    if not copies:
        raise UserError(f"no known data set in {downloads}; docs/data.md lists the layouts that are recognised")
    print_lines(format_copies(copies, downloads))
    failed = prepare_sets([*choice.values()], data_root, copy)
    return failed + sorted({item.name for item in copies} - choice.keys() - {"?"})


def format_copies(copies: Sequence[DataCopy], root: Path) -> str:
    """Returns a table with a line for each copy."""
    rows = [
        (
            item.name,
            name_split(item.name),
            printable(item.location(root)),
            f"{len(item.pairs):,}",
            " or ".join(f"{count:,}" for count in COUNTS.get(item.name, ())),
            printable(item.verdict),
        )
        for item in copies
    ]
    widths = [max(map(len, column)) for column in zip(TITLES, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (TITLES, *rows))
    return "\n".join(lines)


def name_split(name: str) -> str:
    if name == "?":
        return ""
    return "train" if name.endswith(("-train", "-TR")) else "validation" if name.endswith("-VD") else "test"
