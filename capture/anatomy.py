"""Where in a model things are: found by what flows where, not by a list of names, and proved before use.

The neurons of a layer are the input of its FFNN's output projection. What sets that projection apart from every other
linear map of a block: its input at a position comes from other linear maps of the block by element-wise functions alone.
Attention mixes positions; norms mix features. So the model runs once on a few tokens with every linear map cut out of the
graph, and the gradients say which input comes from where.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import ModelRefused

N_TOKENS = 6


@dataclass(frozen=True)
class Anatomy:
    """Names of a model's parts, and its sizes. `blocks`, `ffns` and `ffn_outputs` are by layer.

    `ffns` are the modules around a whole FFNN, None where it is not a module of its own.
    """

    embedding: str
    blocks: tuple[str, ...]
    ffns: tuple[str | None, ...]
    ffn_outputs: tuple[str, ...]
    final_norm: str | None
    unembedding: str
    d_model: int
    d_ff: int
    vocab_size: int

    @property
    def n_layers(self) -> int:
        return len(self.blocks)


@dataclass(frozen=True)
class _Call:
    """One run of a module: the tensors that went in, the first of them `input`, and the one that came out."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def input(self) -> Tensor:
        return self.inputs[0]

    @property
    def is_linear(self) -> bool:
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or not self.input.is_floating_point():
            return False
        return sorted(weight.shape) == sorted((self.input.shape[-1], self.output.shape[-1]))


def find_anatomy(model: nn.Module, name: str) -> Anatomy:
    """The parts of a causal language model. Raises ModelRefused, with what was found.

    Cost: two forward passes over six tokens, and a few backward passes through single FFNNs.
    """
    ids = _some_tokens(model)
    calls = _calls(model, ids)
    weighted = [call for call in calls if isinstance(getattr(call.module, "weight", None), Tensor)]
    embedding = next((c for c in weighted if c.input.shape == ids.shape and torch.equal(c.input, ids)), None)
    if embedding is None:
        raise ModelRefused(name, "no module was given the token ids, so the input embedding was not found")
    linear = [call for call in weighted if call.is_linear]
    if not linear:
        raise ModelRefused(name, "no linear map with a plain two-dimensional weight ran (is the model quantized?)")
    unembedding = linear[-1]
    blocks = _blocks(model, calls, name)
    d_model = next(call.output.shape[-1] for call in calls if call.name == blocks[0])
    cut = [call for call in _calls(model, ids, cut_linear=True) if call.is_linear and call.output.requires_grad]
    ffns, ffn_outputs = zip(*(_ffn(block, cut, d_model, name) for block in blocks), strict=True)
    widths = sorted({call.input.shape[-1] for call in linear if call.name in ffn_outputs})
    if len(widths) > 1:
        raise ModelRefused(name, f"its layers have FFNNs of different widths: {', '.join(map(str, widths))}")
    last_block = max(index for index, call in enumerate(weighted) if call.name.startswith(f"{blocks[-1]}."))
    norms = [call.name for call in weighted[last_block + 1 :] if call.module.weight.ndim == 1]
    return Anatomy(
        embedding=embedding.name,
        blocks=blocks,
        ffns=ffns,
        ffn_outputs=ffn_outputs,
        final_norm=norms[-1] if norms else None,
        unembedding=unembedding.name,
        d_model=d_model,
        d_ff=widths[0],
        vocab_size=unembedding.output.shape[-1],
    )


def check_anatomy(model: nn.Module, anatomy: Anatomy, name: str) -> None:
    """Prove that what would be recorded is right, or raise ModelRefused.

    For every layer: the recorded input times the projection's weight (and bias) is the FFNN's output, to which the module
    may add one of its own inputs (a residual); and a text's activations are the same alone, right-padded, and continued.
    """
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2
    ids = _some_tokens(model)
    alone = {call.name: call for call in _calls(model, ids)}
    for layer, (ffn, projection) in enumerate(zip(anatomy.ffns, anatomy.ffn_outputs, strict=True)):
        call = alone[projection]
        if not _close(_linear(call.module, call.input), call.output, tolerance):
            raise ModelRefused(name, f"in layer {layer}, {projection} does not give its input times its weight")
        for around in _modules_around(ffn, anatomy.blocks[layer]):
            if not _gives(alone[around], call.output, tolerance):
                raise ModelRefused(
                    name, f"in layer {layer}, {around} does not give what {projection} gives (a mixture of experts?)"
                )
    longer = torch.cat([ids, (ids + 1) % anatomy.vocab_size], dim=1).expand(2, -1)  # (2, 2 × N_TOKENS)
    mask = torch.ones_like(longer)
    mask[0, N_TOKENS:] = 0  # what follows the text is padding in the first row, and text in the second
    followed = {call.name: call for call in _calls(model, longer, mask)}
    for layer, projection in enumerate(anatomy.ffn_outputs):
        a = alone[projection].input.view(N_TOKENS, -1)
        padded, continued = followed[projection].input.view(2, 2 * N_TOKENS, -1)[:, :N_TOKENS]
        if not _close(a, padded, 10 * tolerance):
            raise ModelRefused(name, f"padding changes the activations of layer {layer}")
        if not _close(a, continued, 10 * tolerance):
            raise ModelRefused(name, f"later tokens change the activations of layer {layer}: the model is not causal")


def _some_tokens(model: nn.Module) -> Int[Tensor, "1 6"]:
    """Six token ids, all different, that no module could take for positions."""
    config: Any = model.config
    vocab_size = config.get_text_config().vocab_size
    ids = [(vocab_size // 2 + 7 * index) % vocab_size for index in range(N_TOKENS)]
    return torch.tensor([ids], device=next(model.parameters()).device)


def _blocks(model: nn.Module, calls: Sequence[_Call], name: str) -> tuple[str, ...]:
    """The transformer blocks: the largest list of modules that all ran, each once, in order."""
    order = [call.name for call in calls]
    lists = {
        path: [f"{path}.{child}" for child, _ in module.named_children()]
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    ran = {path: names for path, names in lists.items() if [n for n in order if n in set(names)] == names}
    if not ran:
        raise ModelRefused(
            name, "it has no list of modules that all run once and in order, so its blocks were not found"
        )
    largest = max(ran, key=lambda path: sum(p.numel() for p in model.get_submodule(path).parameters()))
    return tuple(ran[largest])


def _ffn(block: str, cut: Sequence[_Call], d_model: int, name: str) -> tuple[str | None, str]:
    """The module around a block's FFNN (None if that is the block itself), and the FFNN's output projection."""
    inside = [call for call in cut if call.name.startswith(f"{block}.")]
    found: dict[str, list[_Call]] = {}
    elementwise = []
    for index, call in enumerate(inside):
        sources = _sources(call, inside[:index]) if call.output.shape[-1] == d_model else None
        if sources is not None:
            found[call.name] = [source for source, _ in sources]
            elementwise.extend([call.name] if all(n_features <= 2 for _, n_features in sources) else [])
    candidates = elementwise or list(found)
    if len(candidates) != 1:
        linear = ", ".join(call.name.removeprefix(f"{block}.") for call in inside) or "none"
        what = f"{len(candidates)} projections look like" if candidates else "no projection is"
        raise ModelRefused(
            name,
            f"in {block}, {what} the output of a dense FFNN (its linear maps: {linear}); "
            "mixtures of experts and quantized weights are not supported",
        )
    (projection,) = candidates
    paths = [projection.split("."), *(source.name.split(".") for source in found[projection])]
    around = ".".join(same[0] for same in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    return (around if around != block else None), projection


def _sources(call: _Call, earlier: Sequence[_Call]) -> list[tuple[_Call, int]] | None:
    """The linear maps whose outputs `call`'s input comes from at its own position only, and how many features one
    neuron takes from each; None if there is none, or if other positions take part."""
    a = call.input.reshape(-1, call.input.shape[-1])
    if not a.requires_grad or len(a) != N_TOKENS or not earlier:
        return None
    last = a[-1]
    weights = torch.linspace(1, 2, len(last), dtype=a.dtype, device=a.device)
    sources = []
    for source in earlier:
        everything = _gradient((last * weights).sum(), source)
        if everything is None:
            continue
        if everything[:-1].any():
            return None
        one_neuron = _gradient(last[last.abs().argmax()], source)
        sources.append((source, 0 if one_neuron is None else int(one_neuron[-1].count_nonzero())))
    return sources or None


def _gradient(of: Float[Tensor, ""], source: _Call) -> Float[Tensor, "positions features"] | None:
    """The gradient with respect to the output of a cut linear map; None where it is all zero."""
    (gradient,) = torch.autograd.grad(of, source.output, retain_graph=True, allow_unused=True)
    if gradient is None or not gradient.any():
        return None
    return gradient.reshape(-1, gradient.shape[-1])


def _linear(module: nn.Module, a: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    """`a @ W (+ b)` by the module's own weight, which stands as (out, in), or as (in, out) in `Conv1D`."""
    weight, bias = module.weight, getattr(module, "bias", None)
    matrix = weight.T if isinstance(module, nn.Linear) else weight
    product = a @ matrix  # type: ignore[operator]
    return product if bias is None else product + bias


def _modules_around(ffn: str | None, block: str) -> Iterator[str]:
    """The FFNN and the modules around it, inside the block."""
    while ffn is not None and ffn != block:
        yield ffn
        ffn = ffn.rpartition(".")[0]


def _gives(ffn: _Call, projected: Tensor, tolerance: float) -> bool:
    if ffn.output.numel() != projected.numel():
        return False
    output = ffn.output.reshape(projected.shape)
    residuals = [x.reshape(projected.shape) for x in ffn.inputs if x.numel() == projected.numel()]
    return any(_close(output - residual, projected, tolerance) for residual in (torch.zeros_like(output), *residuals))


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    scale = float(b.abs().max()) or 1.0
    return bool(((a - b).abs().max() <= tolerance * scale).item())


def _calls(
    model: nn.Module,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"] | None = None,
    *,
    cut_linear: bool = False,
) -> list[_Call]:
    """Every module's run in one forward pass, in the order in which they ended.

    With `cut_linear`, what a module with a two-dimensional weight gives is cut out of the graph and made a leaf of it.
    """
    calls: list[_Call] = []
    with _watched(model, calls, cut_linear=cut_linear), torch.set_grad_enabled(cut_linear):
        model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask, use_cache=False)
    return calls


@contextmanager
def _watched(model: nn.Module, calls: list[_Call], *, cut_linear: bool) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules() if name}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        # copies, because some models add to what a module took or gave in place
        tensors = tuple(value.clone() for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        result = output[0] if isinstance(output, tuple | list) and output else output
        if not tensors or not isinstance(result, Tensor):
            return None
        cut = cut_linear and result is output and getattr(getattr(module, "weight", None), "ndim", 0) == 2
        leaf = result.detach().clone().requires_grad_(cut)
        calls.append(_Call(names[module], module, tensors, leaf))
        return leaf.clone() if cut else None

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
