"""What a masked language model says at each masked position of a text."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

Predictions = tuple[Float32[np.ndarray, "n"], Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]


def masked_targets(logits: Float[Tensor, "n vocab"], masked: Sequence[int], supplied: Sequence[int]) -> tuple[int, ...]:
    """The token that is explained at each masked position: the supplied one, or where none is supplied the likeliest."""
    return tuple(supplied) or tuple(logits[list(masked)].argmax(-1).tolist())


def masked_predictions(logits: Float[Tensor, "n vocab"], masked: Sequence[int], targets: Sequence[int]) -> Predictions:
    """Log-probability, rank (1 is the likeliest) and entropy (nats) of the target at each masked position, else 0."""
    logprob, rank, entropy = (np.zeros(len(logits), kind) for kind in (np.float32, np.int32, np.float32))
    for position, target in zip(masked, targets, strict=True):
        logprobs = logits[position].float().log_softmax(-1)  # (vocab,)
        logprob[position] = logprobs[target].item()
        rank[position] = int((logprobs > logprobs[target]).sum()) + 1
        entropy[position] = torch.special.entr(logprobs.exp()).sum().item()
    return logprob, rank, entropy
