"""Lengths of text at which a model begins to compute every position of it otherwise.

LongRoPE (Ding et al. 2024, arXiv:2402.13753; Phi-3-128k, Phi-4-mini) turns positions by other factors when a text is longer
than those of the first training: all of its positions, and in transformers all of its batch's. So an activation is of a position
in a text of a stretch of lengths. Texts of two stretches never share a batch, and none may grow from one into the next: what
its first tokens were written from would not be what is recorded.

NTK scaling by length (`dynamic`) changes nothing up to the model's context, and no text is longer.
"""

from bisect import bisect_left
from collections.abc import Sequence

from torch import nn


def last_of_stretches(network: nn.Module) -> tuple[int, ...]:
    """The lengths, ascending, after which a longer text is computed otherwise; none for most models."""
    found = set()
    for module in network.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is not None and (parameters := getattr(getattr(module, "config", None), "rope_parameters", None)):
            by_type = parameters.values() if isinstance(kinds, dict) else [parameters]
            found |= {
                int(of_type["original_max_position_embeddings"])
                for of_type in by_type
                if isinstance(of_type, dict) and of_type.get("rope_type") == "longrope"
            }
    return tuple(sorted(found))


def stretch_of(n_tokens: int, lasts: Sequence[int]) -> int:
    """The number of the stretch in which a text of this length is, counted from 0.

    >>> [stretch_of(n_tokens, [4096]) for n_tokens in (1, 4096, 4097)]
    [0, 0, 1]
    """
    return bisect_left(lasts, n_tokens)
