"""Gradients of every generated token's logit with respect to the embeddings before it, from one graph.

Rows of a batch do not touch each other, so one backward pass serves one output position of every row; several output
positions go through the graph at once as a batch of vector-Jacobian products. The unembedding is left out of them: what
it does at one position depends on that position alone, so a single backward pass through it gives the gradient at the
last hidden state for all outputs together, and the products start there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor


def output_gradients(
    embedding: Float[Tensor, "batch pos d_model"],
    last_hidden: Float[Tensor, "batch pos d_last"],
    logits: Float[Tensor, "batch pos vocab"],
    ids: Int[Tensor, "batch pos"],
    n_prompt_tokens: Sequence[int],
    n_tokens: Sequence[int],
    *,
    tokens_at_once: int,
) -> list[list[Float32[np.ndarray, "inputs d_model"]]]:
    """For each text, for each output position `t` from `n_prompt_tokens` on, ∂ logit of its token / ∂ embedding 0 … t-1.

    `embedding` is a leaf of the graph of `logits`. `tokens_at_once` bounds memory: backward passes
    over about that many positions are held together. Frees the graph.
    """
    steps = max(n - p for p, n in zip(n_prompt_tokens, n_tokens, strict=True))
    outputs = [
        [(row, p + step) for row, (p, n) in enumerate(zip(n_prompt_tokens, n_tokens, strict=True)) if p + step < n]
        for step in range(steps)
    ]
    if not outputs:
        return [[] for _ in n_tokens]
    at_hidden = _through_unembedding(last_hidden, logits, ids, [pair for step in outputs for pair in step])
    gradients: list[list[Float32[np.ndarray, "inputs d_model"]]] = [[] for _ in n_tokens]
    chunk = max(1, tokens_at_once // ids.numel())
    for start in range(0, steps, chunk):
        part = outputs[start : start + chunk]
        seeds = torch.zeros(len(part), *last_hidden.shape, dtype=last_hidden.dtype, device=last_hidden.device)
        for index, step in enumerate(part):
            for row, position in step:
                seeds[index, row, position - 1] = at_hidden[row, position - 1]
        (products,) = torch.autograd.grad(
            last_hidden, embedding, seeds, retain_graph=start + chunk < steps, is_grads_batched=True
        )  # (step, batch, pos, d_model)
        moved = products.to("cpu", torch.float32)
        for index, step in enumerate(part):
            for row, position in step:
                gradients[row].append(moved[index, row, :position].numpy().copy())
    return gradients


def _through_unembedding(
    last_hidden: Float[Tensor, "batch pos d_last"],
    logits: Float[Tensor, "batch pos vocab"],
    ids: Int[Tensor, "batch pos"],
    outputs: Sequence[tuple[int, int]],
) -> Float[Tensor, "batch pos d_last"]:
    """For each (row, output position), the gradient of its token's logit at the hidden state that predicted it."""
    rows, positions = torch.tensor(outputs, device=ids.device).T
    targets = logits[rows, positions - 1, ids[rows, positions]]
    (gradient,) = torch.autograd.grad(targets.sum(), last_hidden)
    return gradient
