"""What a model says after many positions, without the logits of all of them at once.

A batch's logits can be greater than all else that is held of it (4,096 positions of a vocabulary of 50,000 take 0.8 GB). Where
they are what the unembedding gives, and nothing is done to them after, they are made in parts and let go: of some positions at a
time, or on a CPU of some of the vocabulary, for a product reads all the weights that it is given, however few positions it has.
"""

from functools import partial
from typing import TypeGuard

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from .calls import some_tokens
from .models import Model
from .predictions import Predicting, predictions

AT_ONCE = {"cpu": 128}
AT_ONCE_ELSEWHERE = 2048
"""Positions whose logits are held together: enough for a quick matrix product."""

AT_ONCE_BY_VOCABULARY, VOCABULARY_AT_ONCE = 4096, 2048
"""Positions, and tokens of the vocabulary, whose logits are held together where all of a vocabulary's are not."""


@torch.no_grad()
def logits_are_unembedded(model: Model) -> bool:
    """Whether a model's logits are what its unembedding gives; tried on six tokens."""
    if model.anatomy.unembedding is None:
        return False
    given: list[Tensor] = []
    ids = some_tokens(model.network)
    unembedding = model.network.get_submodule(model.anatomy.unembedding)
    handle = unembedding.register_forward_hook(lambda module, args, output: given.append(output))
    try:
        logits = model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        handle.remove()
    return len(given) == 1 and given[0].shape == logits.shape and torch.equal(given[0], logits)


@torch.no_grad()
def said(model: Model, last_hidden: Float[Tensor, "n d_last"], targets: Int[Tensor, "n"]) -> Float32[Tensor, "3 n"]:
    """As `predictions`, of the logits that a model's unembedding makes of what it receives."""
    unembedding: nn.Module = model.network.get_submodule(model.anatomy.unembedding)
    at_once, of_some = AT_ONCE.get(last_hidden.device.type, AT_ONCE_ELSEWHERE), partial(_by_positions, unembedding)
    if _is_a_product(unembedding) and _is_plain(last_hidden):
        at_once, of_some = AT_ONCE_BY_VOCABULARY, partial(_by_vocabulary, unembedding)
    parts = [last_hidden.new_zeros(3, 0, dtype=torch.float32)]
    parts += map(of_some, last_hidden.split(at_once), targets.split(at_once))
    return torch.cat(parts, dim=1)


def _is_a_product(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a matrix product with plain numbers and nothing else: no quantized weights in a tensor of their own."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    return type(module.weight) is nn.Parameter and _is_plain(module.weight)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _by_positions(
    unembedding: nn.Module, last_hidden: Float[Tensor, "n d_last"], targets: Int[Tensor, "n"]
) -> Float32[Tensor, "3 n"]:
    return predictions(unembedding.forward(last_hidden[None])[0], targets)  # its hooks are for the model's own use


def _by_vocabulary(
    product: nn.Linear, last_hidden: Float32[Tensor, "n d_last"], targets: Int[Tensor, "n"]
) -> Float32[Tensor, "3 n"]:
    """Of the logits that a matrix product gives, for some tokens of the vocabulary after the others."""
    weight, bias = product.weight, product.bias
    of_targets = torch.linalg.vecdot(last_hidden, weight[targets])
    predicting = Predicting(targets, of_targets if bias is None else of_targets + bias[targets])
    for start in range(0, len(weight), VOCABULARY_AT_ONCE):
        some = slice(start, start + VOCABULARY_AT_ONCE)
        logits = nn.functional.linear(last_hidden, weight[some], None if bias is None else bias[some])
        predicting.see(logits, start)
    return predicting.done()
