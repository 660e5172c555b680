"""Linear layers in float32 on a CPU: PyTorch computes them with MKL, and oneDNN is faster on some processors."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MINIMUM_GAIN = 1.3  # oneDNN is used from this factor on. A smaller one could be chance, and then results would vary.


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes what `F.linear` computes, with oneDNN and without gradients. Results differ by rounding."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")


class OneDNNLinear(TorchFunctionMode):
    """A context in which oneDNN computes the linear layers in float32 on the CPU. For inference only."""

    def __torch_function__(self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        if function is F.linear and args[0].device.type == "cpu" and {t.dtype for t in args[:2]} == {torch.float32}:
            function = onednn_linear
        return function(*args, **(kwargs or {}))


@functools.cache
def measure_onednn_gain() -> float:
    """Returns how many times as fast as MKL oneDNN computes a linear layer here. 0 if there is no oneDNN.

    The layer has the shape of one in the third stage of Hiera large at 352. The measurement takes 0.2 s. It counts the
    processor time of one thread, because other work on the machine hardly changes this time.
    """
    if not torch.backends.mkldnn.is_available():
        return 0.0
    x, weight, bias = torch.ones(484, 576), torch.ones(1728, 576), torch.ones(1728)
    seconds: dict[Callable, list[float]] = {F.linear: [], onednn_linear: []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(6):
            for linear, times in seconds.items():
                start = time.thread_time()
                linear(x, weight, bias)
                times.append(time.thread_time() - start)
    torch.set_num_threads(threads)
    mkl, onednn = map(min, seconds.values())
    return mkl / onednn


def use_fast_linear() -> AbstractContextManager:
    """Returns a context with the faster of the two libraries."""
    return OneDNNLinear() if measure_onednn_gain() >= MINIMUM_GAIN else nullcontext()


def describe_fast_linear() -> str:
    gain = measure_onednn_gain()
    return f"linear layers by {'oneDNN' if gain >= MINIMUM_GAIN else 'MKL'}: oneDNN is {gain:.2f} times as fast as MKL"
