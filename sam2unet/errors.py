import re
import sys
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, where, and what to do."""


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def some(names: Sequence[object], limit: int = 5) -> str:
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
