import functools
import re
import sys
from collections.abc import Sequence
from typing import TextIO

# Control characters, line separators, characters that reverse the direction of text, bytes that are not UTF-8.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# How PyTorch tells of an error in a process that reads data: as a traceback, whose last line is the error's text.
WORKER = re.compile(r"\ACaught \w+ in DataLoader worker process \d+\.\nOriginal Traceback(?s:.*)\n[\w.]+: (.*)\n\Z")

unprinted: list[OSError] = []  # why lines could not be printed


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, where, and what to do.

    A file name may hold a line break, so that each of `lines` is made `printable`.
    """

    def __init__(self, *lines: str):
        super().__init__(*(printable(WORKER.sub(r"\1", line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def printable(text: object) -> str:
    """One line that shows everything in it: `a\\nb` for a line break, `\\xff` for a byte that is not UTF-8."""

    def escaped(found: re.Match) -> str:
        code = ord(found[0])
        return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()

    return HIDDEN.sub(escaped, str(text))


def print_line(text: object = "", file: TextIO | None = None) -> None:
    """Print one line, `printable`. All that the package prints comes through here.

    Where it cannot be printed (the disk is full, `| head` has read enough), the work goes on: `cli.main` tells at the
    end, from `unprinted`.
    """
    try:
        print(printable(text), file=file or sys.stdout, flush=True)  # noqa: T201
    except OSError as e:
        unprinted.append(e)


def print_lines(text: str) -> None:
    """The same for each line of a text, in which names are `printable` already."""
    for line in text.split("\n"):
        print_line(line)


def warn(text: str) -> None:
    print_line(f"warning: {text}", sys.stderr)


@functools.cache
def warn_once(text: str) -> None:
    """`warn`, but the same text only once in a process."""
    warn(text)


def shortlist(names: Sequence[object], limit: int = 5) -> str:
    """`a.jpg, b.jpg and 7 more`: the first `limit` names and how many are left."""
    head = ", ".join(str(name) for name in names[:limit])
    return head if len(names) <= limit else f"{head} and {len(names) - limit} more"


class Stopped(Exception):
    """Ended by a signal, as the user wished. Exit status is 128 + `signal`."""

    def __init__(self, signal: int, where: str = ""):
        super().__init__(f"stopped{where}")
        self.signal = signal


class SomeFailed(UserError):
    """Most went well and is there; exit status 1 instead of 2."""


def write_error(error: BaseException | None) -> OSError | None:
    """The system's error behind one of torch, which reports a full disk as `unexpected pos`; None if there is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def reader_killed(error: BaseException | None) -> UserError | None:
    """What to tell the user when a process that reads images was ended from outside; None for any other error.

    PyTorch raises it wherever the main process is; in the middle of writing a file another error comes of it.
    """
    found = None
    while error is not None and found is None:
        found = re.search(r"DataLoader worker \(pid\S* \d+\) is killed by signal: (\w+)", str(error))
        error = error.__context__
    if found is None:
        return None
    why = "; is there enough memory? --workers 0 needs less" if found[1] == "Killed" else ""
    return UserError(f"a process that reads images was ended by the signal {found[1]}{why}; go on with --resume auto")
