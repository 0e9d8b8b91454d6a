"""How well factors are found again from other seeds.

Each rerun's factors are matched one to one with the run's so that the sum of cosines of their weights is greatest (the
Hungarian method, Kuhn 1955, doi:10.1002/nav.3800020109), as is usual for factorizations whose order says nothing
(Brunet et al. 2004 ask the same of clusters, doi:10.1073/pnas.0308531101; Wu et al. 2016, doi:10.1073/pnas.1521171113, of
factors). A factor that only one start finds is no fact about the data.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32


def stability(
    components: Float32[np.ndarray, "k m"], reruns: Sequence[Float32[np.ndarray, "k m"]]
) -> Float[np.ndarray, "k"]:
    """For each component, the mean over reruns of the cosine (its magnitude) with its match: 0 is unlike all, 1 is the same."""
    from scipy.optimize import linear_sum_assignment

    found = np.zeros((len(reruns), len(components)))
    for number, others in enumerate(reruns):
        alike = np.abs(_unit(components) @ _unit(others).T)
        rows, columns = linear_sum_assignment(alike, maximize=True)
        found[number, rows] = alike[rows, columns]
    return np.minimum(found.mean(axis=0), 1.0)


def _unit(rows: Float32[np.ndarray, "k m"]) -> Float[np.ndarray, "k m"]:
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)
