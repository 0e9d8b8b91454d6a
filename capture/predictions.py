"""What a model says of tokens before it reads them: how likely each is, and how sure the model is."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

AT_ONCE = {"cpu": 16}
AT_ONCE_ELSEWHERE = 256
"""Positions whose distributions over the vocabulary are held together: on a CPU, few enough that they stay in its cache."""

_LEAST = -1e30
"""Stands for minus infinity, which is no number to count with: what a model cannot say."""

_ROWS = 64
"""Positions of which some tokens' logits are looked at together: on a CPU, few enough that they stay in its cache."""


def predictions(logits: Float[Tensor, "n vocab"], targets: Int[Tensor, "n"]) -> Float32[Tensor, "3 n"]:
    """Log-probability, rank (1 is the likeliest) and entropy (nats) of each target, on the logits' device."""
    parts, at_once = [logits.new_zeros(3, 0, dtype=torch.float32)], AT_ONCE.get(logits.device.type, AT_ONCE_ELSEWHERE)
    for rows, wanted in zip(logits.split(at_once), targets.to(logits.device).split(at_once), strict=True):
        below = rows.float() - rows.amax(-1, keepdim=True)  # (positions, vocab): how far below the likeliest
        weights = below.exp()
        total = weights.sum(-1)
        logprob = below.gather(-1, wanted[:, None])[:, 0] - total.log()
        entropy = total.log() - torch.linalg.vecdot(weights, below.clamp_min_(_LEAST)) / total
        rank = torch.gt(rows, rows.gather(-1, wanted[:, None]), out=weights).sum(-1) + 1  # exact below 2²⁴
        parts.append(torch.stack([logprob, rank, entropy]))
    return torch.cat(parts, dim=1)


class Predicting:
    """As `predictions`, of logits that come for some of the vocabulary after the others (an online softmax: Milakov and
    Gimelshein 2018)."""

    def __init__(self, targets: Int[Tensor, "n"], of_targets: Float32[Tensor, "n"]) -> None:
        """`of_targets` are the targets' logits, which stand for those that come."""
        self._targets, self._of_targets = targets, of_targets
        self._greatest = of_targets.clamp_min(_LEAST)
        self._total, self._below, self._rank = (torch.zeros_like(of_targets) for _ in range(3))

    def see(self, logits: Float32[Tensor, "n some"], start: int) -> None:
        """Be given the logits of the tokens from `start` on, which are changed."""
        (here,) = torch.nonzero((self._targets >= start) & (self._targets < start + logits.shape[1]), as_tuple=True)
        logits[here, self._targets[here] - start] = self._of_targets[here]
        for first in range(0, len(logits), _ROWS):
            self._see(logits[first : first + _ROWS], slice(first, first + _ROWS))

    def _see(self, logits: Float32[Tensor, "rows some"], rows: slice) -> None:
        self._rank[rows] += (logits > self._of_targets[rows, None]).sum(-1)
        greatest = torch.maximum(self._greatest[rows], logits.amax(-1))
        below = logits.sub_(greatest[:, None]).clamp_min_(_LEAST)
        weights = below.exp()
        less = self._greatest[rows] - greatest  # by how much those before are farther below now
        scale, total = less.exp(), self._total[rows]
        self._below[rows] = scale * (self._below[rows] + less * total) + torch.linalg.vecdot(weights, below)
        self._total[rows] = scale * total + weights.sum(-1)
        self._greatest[rows] = greatest

    def done(self) -> Float32[Tensor, "3 n"]:
        entropy = self._total.log() - self._below / self._total
        return torch.stack([self._of_targets - self._greatest - self._total.log(), self._rank + 1, entropy])


def prediction_columns(
    predicted: Float32[np.ndarray, "3 predicted"],
) -> tuple[Float32[np.ndarray, "n"], Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Predictions of all tokens but the first, as columns with a 0 for it."""
    logprob, rank, entropy = np.pad(predicted, ((0, 0), (1, 0)))
    return logprob, rank.astype(np.int32), entropy
