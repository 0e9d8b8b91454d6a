"""What a model says of tokens before it reads them: how likely each is, and how sure the model is."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

AT_ONCE = {"cpu": 16}
AT_ONCE_ELSEWHERE = 256
"""Positions whose distributions over the vocabulary are held together: on a CPU, few enough that they stay in its cache."""


def predictions(logits: Float[Tensor, "n vocab"], targets: Int[Tensor, "n"]) -> Float32[Tensor, "3 n"]:
    """Log-probability, rank (1 is the likeliest) and entropy (nats) of each target, on the logits' device."""
    parts, at_once = [logits.new_zeros(3, 0, dtype=torch.float32)], AT_ONCE.get(logits.device.type, AT_ONCE_ELSEWHERE)
    for rows, wanted in zip(logits.split(at_once), targets.to(logits.device).split(at_once), strict=True):
        below = rows.float() - rows.amax(-1, keepdim=True)  # (positions, vocab): how far below the likeliest
        weights = below.exp()
        total = weights.sum(-1)
        logprob = below.gather(-1, wanted[:, None])[:, 0] - total.log()
        entropy = total.log() - torch.linalg.vecdot(weights, below.clamp_min_(-1e30)) / total
        rank = torch.gt(rows, rows.gather(-1, wanted[:, None]), out=weights).sum(-1) + 1  # exact below 2²⁴
        parts.append(torch.stack([logprob, rank, entropy]))
    return torch.cat(parts, dim=1)


def prediction_columns(
    predicted: Float32[np.ndarray, "3 predicted"],
) -> tuple[Float32[np.ndarray, "n"], Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Predictions of all tokens but the first, as columns with a 0 for it."""
    logprob, rank, entropy = np.pad(predicted, ((0, 0), (1, 0)))
    return logprob, rank.astype(np.int32), entropy
