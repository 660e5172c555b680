"""Functions that numba (the extra `fast`) translates to machine code."""

from collections.abc import Callable


def compile_cached(function: Callable) -> Callable:
    """Compiles a function and keeps the result on disk for the next run, if numba finds a folder for it.

    The compiled function releases the interpreter's lock. Raises ImportError without numba.
    """
    from numba import njit

    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder that it can write to
        return njit(nogil=True)(function)
