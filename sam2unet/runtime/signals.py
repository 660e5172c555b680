"""Ctrl-C and SIGTERM end a run at a point where its state can be saved. Other signals wait while a file is written."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Stopped


class Signals:
    """A context that catches Ctrl-C and SIGTERM. The loop reads `caught`, a signal or 0, and stops at a safe point.

    A second signal, or a signal inside `stop_now`, raises `Stopped` immediately.
    """

    def __init__(self) -> None:
        self.caught = 0
        self.immediate = False

    def __enter__(self) -> Signals:
        self.old_handlers = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        second, self.caught = bool(self.caught), number
        if second or self.immediate:
            raise Stopped(number)

    @contextmanager
    def stop_now(self) -> Iterator[None]:
        """A context for work that may be cut off, because its results are on disk. A signal raises `Stopped`."""
        if self.caught:
            raise Stopped(self.caught)
        self.immediate = True
        try:
            yield
        finally:
            self.immediate = False


@contextmanager
def hold_back(number: int) -> Iterator[None]:
    """A context that delays a signal: if it arrives inside, its handler runs at the end of the context.

    A handler that raises an error between two steps of PyTorch's C++ code can abort the process.
    """
    handler, arrived = signal.getsignal(number), []
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # only the main thread runs handlers
        return
    signal.signal(number, lambda *arguments: arrived.append(arguments))
    try:
        yield
    finally:
        signal.signal(number, handler)
        for arguments in arrived[:1]:
            handler(*arguments)


def ignore_signals(worker: int) -> None:
    """For worker processes of a data loader: Ctrl-C reaches the main process only, which then ends the workers.

    The worker gets its own process group, because Ctrl-C goes to a whole group. Python ends workers by SIGTERM.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_with_parent() -> None:
    """For worker processes of a pool: they end when the main process is gone, for example killed by the system.

    Otherwise they wait for work forever, because each of them also holds the end of the pipe that work is written to.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
