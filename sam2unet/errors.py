"""Errors that the user can fix, and everything that the package prints."""

import functools
import re
import sys
from collections.abc import Sequence
from typing import TextIO

# Control characters, line separators, characters that reverse the direction of text, bytes that are not UTF-8.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# PyTorch reports an error in a process that reads data as a traceback. Its last line is the text of the error.
WORKER = re.compile(r"\ACaught \w+ in DataLoader worker process \d+\.\nOriginal Traceback(?s:.*)\n[\w.]+: (.*)\n\Z")

print_errors: list[OSError] = []  # for each line that could not be printed


class UserError(Exception):
    """An error that the user can fix. Its text is one line: what is wrong, where, and how to fix it.

    `lines` pass through `printable`, because file names can contain line breaks.
    """

    def __init__(self, *lines: str):
        super().__init__(*(printable(WORKER.sub(r"\1", line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def __reduce__(self) -> tuple:
        """Makes copies for other processes, also of subclasses whose constructors take other arguments."""
        return copy_error, (type(self), self.args, self.__dict__)


def copy_error(kind: type[UserError], lines: tuple[str, ...], facts: dict[str, object]) -> UserError:
    """Returns an error of this type with these lines and attributes."""
    error = kind.__new__(kind, *lines)
    error.__dict__.update(facts)
    return error


def printable(text: object) -> str:
    """Returns one line in which hidden characters are visible: `a\\nb` for a line break, `\\xff` for a wrong byte."""

    def escape(match: re.Match) -> str:
        code = ord(match[0])
        return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else match[0].encode("unicode_escape").decode()

    return HIDDEN.sub(escape, str(text))


def print_line(text: object = "", file: TextIO | None = None) -> None:
    """Prints one line after `printable`. All lines of the package are printed here.

    If printing fails, for example because the disk is full, the work continues. `cli.main` reports `print_errors`.
    """
    try:
        print(printable(text), file=file or sys.stdout, flush=True)  # noqa: T201
    except OSError as e:
        print_errors.append(e)


def print_lines(text: str) -> None:
    """Prints each line of a text. Names in the text must be `printable`."""
    for line in text.split("\n"):
        print_line(line)


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    print_line(f"warning: {text}", sys.stderr)


@functools.cache
def warn_once(text: str) -> None:
    """Prints a warning. The same text is printed only once in a process."""
    warn(text)


def shortlist(names: Sequence[object], limit: int = 5, count: int | None = None) -> str:
    """Returns the first `limit` names and the number of the others, for example `a.jpg, b.jpg and 7 more`.

    `count` is the number of all names, if `names` has only the first ones.
    """
    total = len(names) if count is None else count
    head = ", ".join(str(name) for name in names[:limit])
    return head if total <= limit else f"{head} and {total - limit} more"


class Stopped(Exception):
    """The user stopped the script with a signal. The exit status is 128 + `signal`."""

    def __init__(self, signal: int, where: str = ""):
        super().__init__(f"stopped{where}")
        self.signal = signal


class SomeFailed(UserError):
    """A part of the work failed, the other results are written. The exit status is 1 instead of 2."""


def find_os_error(error: BaseException | None) -> OSError | None:
    """Returns the system error that caused `error`, or None. PyTorch reports a full disk as `unexpected pos`."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
