"""Worker processes that score pairs and format rows."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import cv2

from ..limits import check_numbers
from ..runtime.parallel import count_cores, prefetch
from ..runtime.signals import end_with_parent
from .pixels.histograms import reuse_freed_memory

stop_flag: Any = None  # in a worker process: its `value` is true when the parent needs no more results


@contextmanager
def pool_map(workers: int | None) -> Iterator[Callable]:
    """Gives a `map` that uses several processes, or this process if `workers` is 1. An error ends the jobs.

    It takes jobs when it needs them, a few for each process. None or 0: one process for each core. Raises UserError for
    a number outside the limits.
    """
    check_numbers({"workers": workers})
    workers = workers or count_cores()
    if workers == 1:
        yield map
        return
    cv2.setNumThreads(1)  # ends OpenCV's threads; a process that is forked while they run would wait for them forever
    stop = multiprocessing.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, initializer=prepare_worker, initargs=(stop,))
    try:
        yield lambda function, jobs: prefetch(pool, function, jobs, 4 * workers)
    finally:
        stop.value = 1
        pool.shutdown(cancel_futures=True)


def prepare_worker(stop: Any) -> None:
    global stop_flag
    stop_flag = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends the pool
    end_with_parent()
    cv2.setNumThreads(1)  # each process uses one core
    reuse_freed_memory()


def is_stopped() -> bool:
    """Returns, in a worker process, whether the parent needs no more results."""
    return stop_flag is not None and bool(stop_flag.value)
