"""The proof, when a model is loaded, that what would be recorded of it is right."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig

from ..errors import ModelRefused
from .anatomy import Anatomy
from .calls import N_TOKENS, Call, by_layer, calls_in, forward_calls, some_tokens


def check_anatomy(model: nn.Module, anatomy: Anatomy, name: str) -> None:
    """Prove that what would be recorded is right, or raise ModelRefused.

    For every layer: the module that is read ran once for each of its layers, in the layers' order; the recorded input
    times the projection's weight (and bias) is the FFNN's output, to which the module may add one of its own inputs (a
    residual); and a text's activations are the same alone, right-padded and, in a causal model, continued and left-padded
    (as `generate()` pads it).
    """
    tolerance = tolerance_of(model)
    ids = some_tokens(model)
    calls = forward_calls(model, ids)
    alone = _layers(calls, anatomy.ffn_outputs, name)
    blocks = _layers(calls, anatomy.blocks, name)
    _check_order(alone, blocks, name)
    for layer, (ffn, call, block) in enumerate(zip(anatomy.ffns, alone, blocks, strict=True)):
        if not close(_linear(call.module, call.input), call.output, tolerance):
            raise ModelRefused(name, f"in layer {layer}, {call.name} does not give its input times its weight")
        for around in _around(ffn, call, block, calls):
            if not _gives(around, call.output, tolerance):
                raise ModelRefused(name, f"in layer {layer}, {around.name} does not give what {call.name} gives")
    more = (ids + 1) % anatomy.vocab_size
    longer = torch.cat([ids, more], dim=1).expand(2, -1)  # (2, 2 × N_TOKENS)
    mask = torch.ones_like(longer)
    mask[0, N_TOKENS:] = 0  # what follows the text is padding in the first row, and text in the second
    followed = _layers(forward_calls(model, longer, mask), anatomy.ffn_outputs, name)
    for layer, (call, after) in enumerate(zip(alone, followed, strict=True)):
        padded, continued = after.input.view(2, 2 * N_TOKENS, -1)[:, :N_TOKENS]
        if not close(_rows(call), padded, 10 * tolerance):
            raise ModelRefused(name, f"padding changes the activations of layer {layer}")
        if anatomy.is_causal and not close(_rows(call), continued, 10 * tolerance):
            raise ModelRefused(name, f"later tokens change the activations of layer {layer}: the model is not causal")
    if not anatomy.is_causal:
        return
    longer = torch.cat([more, ids], dim=1).expand(2, -1)
    preceded = _layers(calls_in(model, lambda: _first_step(model, longer, mask.flip(1))), anatomy.ffn_outputs, name)
    for layer, (call, after) in enumerate(zip(alone, preceded, strict=True)):
        if not close(_rows(call), after.input.view(2, 2 * N_TOKENS, -1)[0, N_TOKENS:], 10 * tolerance):
            raise ModelRefused(name, f"padding at the left changes the activations of layer {layer}")


def _layers(calls: Sequence[Call], names: Sequence[str], name: str) -> list[Call]:
    try:
        return by_layer(calls, names)
    except ValueError as error:
        raise ModelRefused(name, str(error)) from error


def _check_order(outputs: Sequence[Call], blocks: Sequence[Call], name: str) -> None:
    for layer, (output, block) in enumerate(zip(outputs, blocks, strict=True)):
        if not block.holds(output):
            raise ModelRefused(name, f"in layer {layer}, {output.name} did not run inside {block.name}")
        if layer and output.start < outputs[layer - 1].end:
            raise ModelRefused(name, f"layer {layer} did not run after layer {layer - 1}")


@torch.no_grad()
def _first_step(model: nn.Module, ids: Tensor, mask: Tensor) -> None:
    """What `generate()` reads before it writes the first token."""
    config = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0, eos_token_id=None, bos_token_id=None)
    model.generate(input_ids=ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]


def _rows(call: Call) -> Float[Tensor, "positions d_ff"]:
    return call.input.view(N_TOKENS, -1)


def _linear(module: nn.Module, a: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    """`a @ W (+ b)` by the module's own weight, which stands as (out, in), or as (in, out) in `Conv1D`."""
    weight, bias = module.weight, getattr(module, "bias", None)
    matrix = weight.T if isinstance(module, nn.Linear) else weight
    product = a @ matrix  # type: ignore[operator]
    return product if bias is None else product + bias


def _around(ffn: str | None, output: Call, block: Call, calls: Sequence[Call]) -> Iterator[Call]:
    """The run of the FFNN and of the modules around it, inside the block."""
    outwards = [call for call in calls if block.holds(call) and call.holds(output)]  # as they ended
    names = [call.name for call in outwards]
    yield from outwards[names.index(ffn) :] if ffn in names else []


def _gives(ffn: Call, projected: Tensor, tolerance: float) -> bool:
    if ffn.output.numel() != projected.numel():
        return False
    output = ffn.output.reshape(projected.shape)
    residuals = [x.reshape(projected.shape) for x in ffn.inputs if x.numel() == projected.numel()]
    return any(close(output - residual, projected, tolerance) for residual in (torch.zeros_like(output), *residuals))


def tolerance_of(model: nn.Module) -> float:
    """How much of the greatest value two ways to compute the same may differ by."""
    return 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two tensors of one shape are the same, but for that much of the second's greatest value."""
    scale = float(b.abs().max()) or 1.0
    return bool(((a - b).abs().max() <= tolerance * scale).item())
