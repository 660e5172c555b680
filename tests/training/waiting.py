"""Waits until a run in another process has got so far."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from tests.forked import Started


def wait_for(process: Started, happened: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline and process.poll() is None, "it never happened"
        time.sleep(0.001)


def read_progress(run: Path) -> dict:
    """Where last.pt goes on."""
    state = run / "last.pt"
    return load_progress(state, state.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def load_progress(state: Path, written: int) -> dict:
    """Loads a file again only if it was written again, because who waits asks a thousand times a second."""
    return torch.load(state, weights_only=True)["progress"]


def wait_for_batch(process: Started, run: Path) -> None:
    """Waits until last.pt is from the middle of an epoch."""
    wait_for(process, lambda: (run / "last.pt").exists() and read_progress(run)["batch"] > 0)
