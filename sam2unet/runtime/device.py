"""The device, its memory, and how models compute on it."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..choices import PRECISIONS
from ..errors import UserError
from ..limits import shorten
from .versions import read_cpu_name

Model = TypeVar("Model", bound=nn.Module)


def pick_device(name: str | torch.device | None, local_rank: int = 0) -> torch.device:
    """Returns the device with this name. Without a name, returns a GPU if there is one, else the CPU.

    Args:
        local_rank: index of this process on this machine. Each process uses another GPU.

    Raises:
        UserError: the device cannot be used.
    """
    if name in (None, "cuda") and torch.cuda.is_available() and local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            f"process {local_rank + 1} on this machine has no GPU, because there are {count}; start {count} processes "
            "on it, or give --device cpu"
        )
    if name is None:
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)
        torch.zeros(1, device=device).item()  # fails for the device `meta`, whose tensors have no values
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError, OverflowError) as e:
        reason = f" ({str(e).splitlines()[0].split('. ')[0]})" if str(name).startswith("cuda") and str(e) else ""
        raise UserError(f"device {shorten(name)} cannot be used here{reason}; give cpu, or no device") from e
    return device


def set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def tune_malloc() -> None:
    """Makes glibc keep freed memory in this process. Does nothing with another C library.

    By default, glibc returns large blocks to the system at once, and the system clears their pages before the next use.
    On a CPU, this takes a third of the time of a training step with large weights.
    """
    trim_threshold, mmap_threshold, never = -1, -3, 2**31 - 1
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, never)
        libc.mallopt(trim_threshold, never)


def release_memory() -> None:
    """Returns the memory that this process has freed, on GPUs and of glibc, so that other processes can use it."""
    gc.collect()
    torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def is_out_of_memory(error: RuntimeError) -> bool:
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the last one of cuBLAS and cuDNN
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


@contextmanager
def explain_map_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """A context for prediction in which too little memory raises a UserError with remedies."""
    try:
        yield
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        smaller = f"--batch_size {batch_size // 2}, " if batch_size > 1 else ""
        raise UserError(
            f"out of memory on {device} with batches of {batch_size}. What helps: {smaller}--amp bf16 (half precision, "
            "nearly the same maps), a smaller --size (other maps), --device cpu (slower)"
        ) from e


def check_output(numbers: Tensor, amp: str, name: object = None) -> None:
    """Raises UserError if the output of a model contains NaN or Inf. `name` is the name of the image."""
    if not numbers.isfinite().all():
        where = "" if name is None else f" for {name}"
        damaged = "the weights are damaged or their training diverged; give another checkpoint"
        overflow = f"numbers may be too large for half precision ({amp}); use --amp off"
        raise UserError(f"the model gives NaN or Inf{where}; {damaged if amp == 'off' else overflow}")


def evaluation_copy(model: Model) -> Model:
    """Returns a copy of `model` in evaluation mode. The copy has its own modules and shares the weights.

    The modes of `model` stay as they are, so that other threads can use or train it at the same time.
    """
    copy = model.__class__.__new__(model.__class__)
    modules = {name: None if child is None else evaluation_copy(child) for name, child in model._modules.items()}
    copy.__dict__.update(model.__dict__, _modules=modules, training=False)
    copy.__dict__.pop("_compiled_call_impl", None)  # compiled code calls the modules of `model`
    return copy


TYPES = dict(zip(PRECISIONS, (None, torch.bfloat16, torch.float16), strict=True))


def can_compile(device: torch.device) -> bool:
    """Returns whether compiling makes the model faster on `device`, and Triton and a C compiler can do it."""
    if device.type != "cuda" or not find_spec("triton") or not shutil.which("cc"):
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def pick_half_type(device: torch.device) -> str:
    """Returns the half precision that the hardware of `device` computes with, or "off" if there is none."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    table = Path("/proc/cpuinfo")
    has_bf16_instructions = table.is_file() and "bf16" in table.read_text()
    return "bf16" if has_bf16_instructions and can_use_onednn("bf16") else "off"


def can_use_onednn(amp: str) -> bool:
    """Returns whether oneDNN computes linear layers of this precision on this CPU. Without AVX-512 it has no bf16."""
    if not torch.backends.mkldnn.is_available():
        return False
    return amp == "off" or (amp == "bf16" and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=TYPES[amp], enabled=amp != "off")


def to_channels_last_(decoder: Iterable[nn.Parameter]) -> None:
    """Stores convolution weights in channels-last order, in place. The outputs of the trunk have this order already."""
    for parameter in decoder:
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def describe_device(device: torch.device) -> dict[str, object]:
    """Returns the names and the numbers of the device and the CPU, for the record of a run."""
    cores = os.cpu_count()
    facts: dict[str, object] = {"type": device.type, "cpu": read_cpu_name(), "cores": cores}
    facts["threads"] = torch.get_num_threads()
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts
