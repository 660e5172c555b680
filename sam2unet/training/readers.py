"""The processes that read images for training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..data.batches import Batches
from ..errors import Stopped, UserError
from ..runtime.parallel import default_workers
from ..runtime.signals import hold_back, ignore_signals


def make_loader(dataset: Dataset, batches: Batches, workers: int | None, device: torch.device) -> DataLoader:
    workers = default_workers() if workers is None else workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=lambda batch: batch,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=ignore_signals,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # without it, each epoch would draw from the random state of the process
    )


@contextmanager
def watch_readers(loader: DataLoader) -> Iterator[None]:
    """A context that ends the processes that read images. An error becomes UserError if one of them was killed.

    PyTorch then raises an error anywhere in this process, or the connection to that process is lost. At its exit,
    Python would end the other processes with a signal, which PyTorch sometimes reports as an error.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as e:
        iterator: Any = loader._iterator  # None if this process reads the images
        readers = iterator._workers if iterator else []
        lost = isinstance(e, (OSError, EOFError))  # the connection to a process, which may end a moment later
        with hold_back(signal.SIGCHLD):
            ended = wait([reader.sentinel for reader in readers], 1 if readers and lost else 0)
            for reader in readers:
                if reader.sentinel in ended:
                    reader.join()
                    if reader.exitcode < 0:
                        raise explain_killed_reader(-reader.exitcode) from e
        raise
    finally:
        if iterator := loader._iterator:
            with hold_back(signal.SIGCHLD):
                iterator._shutdown_workers()  # type: ignore[attr-defined]  # PyTorch has no public function for this


def explain_killed_reader(number: int) -> UserError:
    why = "; is there enough memory? --workers 0 needs less" if number == signal.SIGKILL else ""
    name = signal.strsignal(number)
    return UserError(f"a process that reads images was ended by the signal {name}{why}; go on with --resume auto")
