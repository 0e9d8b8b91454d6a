"""What a masked language model says at each masked position of a text, and the gradients of that.

It reads all positions at once: a gradient is with respect to every embedding of the text, the mask's own and later ones too.
"""

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


def masked_gradients(
    embedding: Float[Tensor, "batch pos d_model"],
    logits: Float[Tensor, "batch pos vocab"],
    masked: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    n_tokens: Sequence[int],
) -> list[list[Float32[np.ndarray, "_ d_model"]]]:
    """For each text, for each of its masked positions, ∂ logit of its target / ∂ every embedding of the text.

    Rows of a batch do not touch each other, so a backward pass serves the first mask of every row, the next the second.
    """
    gradients: list[list[Float32[np.ndarray, "_ d_model"]]] = [[] for _ in masked]
    steps = max(map(len, masked), default=0)
    for step in range(steps):
        rows = [row for row, positions in enumerate(masked) if step < len(positions)]
        logit = torch.stack([logits[row, masked[row][step], targets[row][step]] for row in rows]).sum()
        (gradient,) = torch.autograd.grad(logit, embedding, retain_graph=step + 1 < steps)
        moved = gradient.to("cpu", torch.float32)
        for row in rows:
            gradients[row].append(moved[row, : n_tokens[row]].numpy().copy())
    return gradients
