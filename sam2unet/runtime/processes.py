"""A run in several processes, which torchrun starts: one process per GPU, on one or more machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..layers.sync_norm import sync_batchnorm_


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
        return cls(*(int(os.environ[name]) for name in names)) if "TORCHELASTIC_RUN_ID" in os.environ else cls()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Waits until all processes are connected. After this call only the first process prints."""
        if self.world > 1:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        if not self.first:
            sys.stdout = open(os.devnull, "w")

    @contextmanager
    def silence_other_ranks(self) -> Iterator[None]:
        """A context for work that all processes do in the same way: only the first process prints warnings."""
        with ExitStack() as stack:
            if not self.first:
                stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
            yield

    def close(self) -> None:
        """Ends the connection to the other processes, if there is one."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Waits until every process has reached this line."""
        if self.world > 1:
            dist.barrier()

    def any(self, *flags: bool | int) -> list[int]:
        """Returns the maximum of each flag over all processes, so that all processes take the same decision."""
        if self.world == 1:
            return [int(flag) for flag in flags]
        values = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Returns the sum of each value over all processes, computed in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: object) -> list[Any]:
        """Returns the values of all processes, in the order of their ranks. Values are pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

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
        for parameter in idle:
            parameter.requires_grad_(False)
        if sync_bn:
            sync_batchnorm_(model)
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=changing
        )


def another_failed(error: RuntimeError) -> UserError | None:
    """Returns the message for an error that means "another process has ended", or None for any other error."""
    signs = ("Connection", "closed by peer", "Socket", "gloo", "NCCL", "ProcessGroup")
    if not any(sign in str(error) for sign in signs):
        return None
    return UserError(
        "another process of this run has ended; its own message is above. Continue the run with --resume auto"
    )
