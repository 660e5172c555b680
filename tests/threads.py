"""Threads that stand for the processes of a run. They exchange values as the processes do, without a network."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sam2unet.runtime.processes import Failure, Processes, SharedError


class Table:
    """Where the threads put their values."""

    def __init__(self, world: int):
        self.values, self.barrier = [None] * world, threading.Barrier(world, timeout=20)


@dataclass(frozen=True)
class Thread(Processes):
    table: Table | None = None

    def gather(self, value):
        self.table.values[self.rank] = value
        self.table.barrier.wait()
        values = list(self.table.values)
        self.table.barrier.wait()
        if failures := [value for value in values if isinstance(value, Failure)]:
            raise SharedError(*failures[0].lines)
        return values


def run_threads(world: int, function: Callable[[Processes], object]) -> list:
    """`function(processes)` of each thread, or its error, in the order of the ranks."""
    table, results = Table(world), [None] * world

    def run(rank):
        try:
            results[rank] = function(Thread(rank, world, rank, world, table))
        except Exception as e:
            results[rank] = e

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
