"""How a CPU computes a model: several inputs at the same time, and linear layers with the faster library.

PyTorch computes linear layers in float32 with MKL. On some processors, oneDNN is faster.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .parallel import prefetch

T = TypeVar("T")
R = TypeVar("R")
# oneDNN is used from this factor on. With AVX2 the factor is measured as 0.9 to 1.35, with AVX-512 as about 2.3. With a
# limit near one of them, the choice and the last bits of maps would differ from run to run.
MINIMUM_GAIN = 1.7


def compute_in_parallel(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yields `function(item)` for each item, in order, and computes `count` items at the same time.

    Until the last item, PyTorch divides its threads among them. Also the calling thread has only its share, so that no
    more threads compute than there are cores.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield from prefetch(pool, function, items, count)
    finally:
        torch.set_num_threads(threads)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes what `F.linear` computes, with oneDNN and without gradients. Results differ by rounding."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")


class OneDNNLinear(TorchFunctionMode):
    """A context in which oneDNN computes the linear layers in float32 on the CPU. For inference only."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function is F.linear and args[0].device.type == "cpu" and {t.dtype for t in args[:2]} == {torch.float32}:
            function = onednn_linear
        return function(*args, **(kwargs or {}))


@functools.cache
def measure_onednn_gain() -> float:
    """Returns how many times as fast as MKL oneDNN computes a linear layer here. 0 if there is no oneDNN.

    The layer is one of the third stage of Hiera large, for a quarter of the tokens at 352. The measurement takes
    0.03 s. It counts the processor time of one thread, because other work on the machine hardly changes this time.
    """
    if not torch.backends.mkldnn.is_available():
        return 0.0
    x, weight, bias = torch.ones(121, 576), torch.ones(1728, 576), torch.ones(1728)
    seconds: dict[Callable, list[float]] = {F.linear: [], onednn_linear: []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(4):
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
