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
