"""A run in several processes, which torchrun starts: one process per GPU, on one or more machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and one process alone does not need it to check files
    import torch
    from torch import nn

T = TypeVar("T")
CONNECTING = timedelta(minutes=30)  # the longest time until all processes are connected
WAITING = timedelta(hours=12)  # the longest time that processes wait for each other, for example in validation


class Failure(NamedTuple):
    """What a process that cannot go on sends to the others instead of the value that they wait for."""

    lines: tuple[str, ...]


class SharedError(UserError):
    """The first error of the processes. All of them raise it."""


class NotConnected(UserError):
    """The processes are not connected, or no longer, so that this process cannot send its errors to the others."""


def is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@dataclass(frozen=True)
class Processes:
    """The position of this process among all processes of the run.

    Without torchrun there is one process; then the methods that communicate return at once.
    """

    # rank and world: the index of this process and the number of all processes
    rank: int = 0
    world: int = 1
    # local_rank and local_world: the same among the processes on this machine
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Reads the environment variables that torchrun sets."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names)) if is_under_torchrun() else cls()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Waits until all processes are connected. After this call only the first process prints.

        Raises NotConnected if a process does not arrive.
        """
        import torch

        if device.type == "cuda":
            torch.cuda.set_device(device)  # one process too: the thread that pins memory would use the first GPU
        if self.world == 1:
            return
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store, rank, world = next(iter(dist.rendezvous("env://", timeout=CONNECTING)))
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=WAITING)
        except RuntimeError as e:  # among them DistStoreError
            place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise NotConnected(
                f"the {self.world} processes of this run cannot connect at {place} ({str(e).strip().splitlines()[0]}); "
                "start the run on all machines, and open this port between them"
            ) from e
        if not self.first:
            sys.stdout = open(os.devnull, "w")

    @contextmanager
    def end_together(self) -> Iterator[None]:
        """A context for the start of a run. If one process raises an error, all processes end.

        The first process raises the error, and the others end with status 2, without a message. All processes must
        reach the end of the context, or raise an error.
        """
        try:
            try:
                yield
                self.wait()
            except (SharedError, NotConnected):
                raise
            except Exception as e:
                if self.world > 1 and isinstance(e, RuntimeError) and (other := another_failed(e)):
                    raise other from e
                if self.world > 1:
                    self.report(e)
                raise
        except SharedError as e:
            if not self.first:
                raise SystemExit(2) from e
            raise

    def report(self, error: Exception) -> None:
        """Sends an error to all processes. They raise SharedError, this one only if the error is a UserError."""
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            self.connect(torch.device("cpu"))
        is_user_error = isinstance(error, UserError)
        try:
            self.gather(Failure(error.args if is_user_error else (f"process {self.rank}: {error!r}",)))
        except SharedError:
            if is_user_error:
                raise
        except RuntimeError:  # the others have ended, too
            pass

    @contextmanager
    def silence_other_ranks(self) -> Iterator[None]:
        """A context for work that all processes do in the same way: only the first process prints warnings."""
        with ExitStack() as stack:
            if not self.first:
                stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
            yield

    def close(self) -> None:
        """Ends the connection to the other processes, if there is one."""
        if self.world == 1:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Waits until every process has reached this line."""
        self.gather(None)

    def any(self, *flags: bool | int) -> list[int]:
        """Returns the maximum of each flag over all processes, so that all processes take the same decision."""
        if self.world == 1:
            return [int(flag) for flag in flags]
        import torch
        import torch.distributed as dist

        values = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Returns the sum of each value over all processes, computed in float64."""
        if self.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: object) -> list[Any]:
        """Returns the values of all processes, in the order of their ranks. Values are pickled.

        Raises SharedError if a process has sent a `Failure`.
        """
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        if failures := [value for value in values if isinstance(value, Failure)]:
            raise SharedError(*failures[0].lines)
        return values

    def exchange(self, results: Iterator[T], count: int, size: int) -> Iterator[T]:
        """Yields the results for `count` items in the order of the items. All processes get the same results.

        The processes take turns: this process computes `results` for the items `rank`, `rank + world`, and so on. They
        exchange `size` results at a time, so that few results are in memory.
        """
        for start in range(0, count, size * self.world):
            end = min(start + size * self.world, count)
            parts = self.gather(list(islice(results, len(range(start + self.rank, end, self.world)))))
            for index in range(end - start):
                yield parts[index % self.world][index // self.world]

    def compute_once(self, function: Callable[[], T]) -> T:
        """Returns `function()`, which only the first process computes."""
        return self.gather(function() if self.first else None)[0]

    def copy_first_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrites the tensors with those of the first process."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def wrap_ddp(
        self,
        model: nn.Module,
        device: torch.device,
        idle: Sequence[nn.Parameter],
        sync_bn: bool,
        changing: bool = False,
    ) -> nn.Module:
        """Returns `model` if there is one process, else a `DistributedDataParallel` that averages the gradients.

        Args:
            idle: parameters that never get a gradient. They are frozen here, because averaging would wait for them.
            sync_bn: compute BatchNorm over the images of all processes.
            changing: calls of the model use different parameters. Averaging then skips the unused ones.
        """
        if self.world == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        from ..layers.sync_norm import sync_batchnorm_

        self.wait()  # raises the error of a process that does not come here
        for parameter in idle:
            parameter.requires_grad_(False)
        if sync_bn:
            sync_batchnorm_(model)
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=changing
        )


ALONE = Processes()  # a run in one process


def another_failed(error: RuntimeError) -> NotConnected | None:
    """Returns the message for an error that means "another process has ended", or None for any other error."""
    signs = ("Connection", "closed by peer", "Socket", "gloo", "NCCL", "ProcessGroup")
    if not any(sign in str(error) for sign in signs):
        return None
    return NotConnected(
        "another process of this run has ended; its own message is above. Continue the run with --resume auto"
    )
