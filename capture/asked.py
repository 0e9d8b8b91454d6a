"""What a loaded model is asked about a generation that is stored: predictions from its hidden states, logits from embeddings.

`queries` knows a model by these questions alone (`queries.asking.AskedModel`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor, nn

from ..errors import InvalidOption
from ..store import CapturedPredictions
from .calls import some_tokens
from .float32 import in_float32
from .lens import LOGITS_AT_ONCE, check_stream, head_logits, target_predictions, token_texts
from .options import CaptureOptions
from .plainly import plainly
from .stream import Lens, Stream, residual_stream

if TYPE_CHECKING:
    from .models import Model


@plainly()
def lens_predictions(
    model: "Model",
    layer: int,
    hidden: Float32[np.ndarray, "rows d_model"],
    targets: Sequence[int],
    lens: Lens,
) -> CapturedPredictions:
    """What the model would say at each of these hidden states after a layer, and of a target (-1 for none): what a capture
    records as `layer_predictions`. Raises InvalidOption where the model's head cannot be applied to them."""
    parts = []
    explained = torch.tensor(list(targets), dtype=torch.long, device=model.device)
    for logits, of_some in zip(_logits(model, layer, hidden, lens), explained.split(LOGITS_AT_ONCE), strict=True):
        parts.append(target_predictions(logits, of_some))
    rank, probability, top_ids, top_probabilities = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return CapturedPredictions(rank, probability, top_ids, token_texts(model, top_ids), top_probabilities)


@plainly()
@torch.no_grad()
def lens_ranks(
    model: "Model",
    layer: int,
    hidden: Float32[np.ndarray, "rows d_model"],
    token_ids: Sequence[int],
    lens: Lens,
) -> tuple[Int32[np.ndarray, "rows tokens"], Float32[np.ndarray, "rows tokens"]]:
    """The rank (1 is the likeliest) and the probability of some tokens at each of these hidden states after a layer. Raises as
    `lens_predictions`."""
    ranks, probabilities = [], []
    for logits in _logits(model, layer, hidden, lens):
        logprobs = logits.float().log_softmax(-1)
        wanted = logprobs[:, list(token_ids)]  # (rows, tokens)
        ranks.append(torch.stack([(logprobs > each[:, None]).sum(-1) + 1 for each in wanted.T], dim=1).int().cpu())
        probabilities.append(wanted.exp().cpu())
    return torch.cat(ranks).numpy(), torch.cat(probabilities).numpy()


def token_ids_of(model: "Model", tokens: Sequence[str | int]) -> list[int]:
    """The numbers of tokens that are given by their text or number. Raises InvalidOption for a text that is not one token."""
    found = []
    for token in tokens:
        if isinstance(token, int):
            if not 0 <= token < model.anatomy.vocab_size:
                raise InvalidOption("tokens", token, f"choose from 0 to {model.anatomy.vocab_size - 1}")
            found.append(token)
            continue
        ids = model.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or model.text.text_of(ids[0]) != token:
            parts = ", ".join(repr(model.text.text_of(each)) for each in ids) or "nothing"
            raise InvalidOption(
                "tokens",
                token,
                f"for {model.name} it is {parts}; give the text of one token (with its space, as ' key')",
            )
        found.append(int(ids[0]))
    return found


@plainly()
@torch.no_grad()
def embedded(model: "Model", token_ids: Sequence[int]) -> Float[Tensor, "pos d_model"]:
    """The input embeddings of tokens, as they enter the model, in float32."""
    ids = torch.tensor([list(token_ids)], device=model.device)
    gave: Tensor = model.network.get_submodule(model.anatomy.embedding)(ids)
    return gave[0].float()


@plainly()
def logits_of(
    model: "Model", token_ids: Sequence[int], embeddings: Float[Tensor, "rows pos d_model"]
) -> Float[Tensor, "rows pos vocab"]:
    """The logits that the model gives where these stand for the embeddings of its tokens, computed in float32; gradients flow
    back to them. Raises InvalidOption of a model that predicts no token."""
    if model.anatomy.unembedding is None:
        raise InvalidOption("model", model.name, "it is an encoder that predicts no token")
    ids = torch.tensor([list(token_ids)], device=model.device).expand(len(embeddings), -1)
    wide = nullcontext() if model.dtype == "float32" else in_float32()
    with _embeddings_replaced(model, embeddings), wide:
        logits: Tensor = model.network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


@contextmanager
def _embeddings_replaced(model: "Model", embeddings: Float[Tensor, "rows pos d_model"]) -> Iterator[None]:
    def instead(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return embeddings.clone()  # it may be added to in place

    handle = model.network.get_submodule(model.anatomy.embedding).register_forward_hook(instead)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _logits(
    model: "Model", layer: int, hidden: Float32[np.ndarray, "rows d_model"], lens: Lens
) -> Iterator[Float[Tensor, "some vocab"]]:
    """The head's logits of 256 hidden states at a time; after the last layer the final norm is always applied, as the model
    does."""
    network, anatomy, stream = model.network, model.anatomy, _proved_stream(model, lens)
    like = next(iter(stream.states.values()))
    states = torch.from_numpy(np.ascontiguousarray(hidden)).to(like.device, like.dtype)
    for some in states.split(LOGITS_AT_ONCE):
        yield head_logits(network, anatomy, stream, some, "normed" if layer == anatomy.n_layers - 1 else lens)


def _proved_stream(model: "Model", lens: Lens) -> Stream:
    """The stream of any forward pass: the form in which blocks give what they give. That the head can be applied to it is proved
    once for a model: each layer of each question would pay for some five passes again."""
    proved = _proved.setdefault(model.network, {})
    if lens not in proved:
        check_stream(model, CaptureOptions(record=("layer_predictions",), lens=lens))
        ids = some_tokens(model.network)
        with residual_stream(model.network, model.anatomy, [model.anatomy.n_layers - 1]) as stream:
            model.network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        proved[lens] = stream
    return proved[lens]


_proved: WeakKeyDictionary[nn.Module, dict[Lens, Stream]] = WeakKeyDictionary()
