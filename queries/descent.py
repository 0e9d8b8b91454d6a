"""The inner loop of the fast NMF, compiled by Numba: a sweep of coordinate descent over rows, a tile of columns at a time.

Importing this takes half a second the first time, so those who need it import it then.
"""

import numpy as np

from ..store.kernels import compiled


@compiled
def descend(rows, gram, product, n_sweeps):  # type: ignore[no-untyped-def]
    """Lower ‖X − W H‖ over H ≥ 0, in place: `rows` is H, float32 [k, n], `gram` WᵀW [k, k], `product` WᵀX [k, n].

    A sweep sets each row in turn to the best there is given the others; one whose column of W is 0 stays as it is. A tile of
    columns is swept all times while it is in the cache: columns do not depend on each other.
    """
    k, n = rows.shape
    width = 256
    rest = np.empty(width, np.float32)
    tile = np.zeros((k, width), np.float32)
    for start in range(0, n, width):
        m = min(width, n - start)
        tile[:, :m] = rows[:, start : start + m]
        for _ in range(n_sweeps):
            for j in range(k):
                if gram[j, j] <= 0:
                    continue
                scale = np.float32(1) / gram[j, j]
                rest[:m] = product[j, start : start + m]
                other = 0
                while other + 4 <= k:  # four at a time: a third of the loads and stores
                    a, b, c, d = gram[j, other], gram[j, other + 1], gram[j, other + 2], gram[j, other + 3]
                    of_a, of_b, of_c, of_d = tile[other], tile[other + 1], tile[other + 2], tile[other + 3]
                    for i in range(width):
                        rest[i] -= a * of_a[i] + b * of_b[i] + c * of_c[i] + d * of_d[i]
                    other += 4
                while other < k:
                    a, of_a = gram[j, other], tile[other]
                    for i in range(width):
                        rest[i] -= a * of_a[i]
                    other += 1
                own = tile[j]
                for i in range(width):
                    own[i] = max(own[i] + rest[i] * scale, np.float32(0))
        rows[:, start : start + m] = tile[:, :m]
