"""Ctrl-C and SIGTERM end a run where its state can be saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Stopped


class Signals:
    """Notes a signal for the loop to see; the second one, or one inside `at_once`, ends the run on the spot."""

    def __init__(self) -> None:
        self.caught = 0  # number of the signal
        self.immediate = False

    def __enter__(self) -> Signals:
        self.former = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        again, self.caught = bool(self.caught), number
        if again or self.immediate:
            raise Stopped(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around work that loses nothing when it is cut off: the state before it is on disk."""
        if self.caught:
            raise Stopped(self.caught)
        self.immediate = True
        try:
            yield
        finally:
            self.immediate = False


def apart_from_signals(worker: int) -> None:
    """For processes that read data: what is sent to the run's process group, as Ctrl-C is, is the parent's to handle.

    SIGTERM keeps its own meaning, for that is how Python ends them when the parent fails.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
