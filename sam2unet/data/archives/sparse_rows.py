"""Reads masks of IMed-361M: a sparse matrix of SciPy with one mask in each row."""

import ast
from functools import lru_cache
from typing import Any

import numpy as np
from numpy import ndarray

from ...errors import UserError
from .member import Member

FILES = 4  # matrices that stay in memory, because the masks of an image are read one after another


def read_row(member: Member) -> ndarray:
    """Returns the mask in a row, uint8 (H, W) with the values 0 and 255. The name of the file has its (C, H, W, 1).

    Raises UserError if the file is damaged or has another shape.
    """
    place = member.archive, member.name_inside, member.start, member.length, member.method
    matrix, (height, width) = read_matrix(*place)
    assert member.row is not None
    row = matrix[[member.row]].toarray().reshape(height, width)
    return (row != 0) * np.uint8(255)


@lru_cache(maxsize=FILES)
def read_matrix(*place: Any) -> tuple[Any, tuple[int, int]]:
    """Returns the matrix (C, H * W) of a file, and (H, W)."""
    from scipy import sparse

    member = Member(*place)
    try:
        classes, height, width, *_ = ast.literal_eval(member.path.name.split(".")[-2])
        matrix = sparse.load_npz(member.open()).tocsr()
        return matrix.reshape(classes, height * width).tocsr(), (height, width)
    except UserError:
        raise
    except Exception as e:  # NumPy and SciPy raise many types for damaged files
        raise UserError(f"cannot read {member.path}: damaged, or its name has another shape; replace it") from e
