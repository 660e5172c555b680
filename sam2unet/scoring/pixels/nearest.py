"""The distance from each point of one surface to the nearest point of another one, with SciPy.

`nearest_numba` has the same function. Legend: P and Q points, D axes, 2 or 3.
"""

import numpy as np
from numpy import ndarray
from scipy.spatial import cKDTree


def measure_distances(points: ndarray, others: ndarray, spacing: ndarray) -> ndarray:
    """Indices (D, P) and (D, Q), spacing (D,) -> distances (P,) to the nearest of the others."""
    tree = cKDTree(others.T * spacing, compact_nodes=False, balanced_tree=False)
    nearest = tree.query(points.T * spacing)[1]
    # Differences of integers are exact. So equal distances are equal numbers, also beside the tolerance of NSD.
    return np.sqrt((((points - others[:, nearest]) * spacing[:, None]) ** 2).sum(0))
