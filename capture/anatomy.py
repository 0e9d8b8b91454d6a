"""Where in a model things are: found by what flows where, not by a list of names, or named by hand; proved before use.

The neurons of a layer are the input of its FFNN's output projection. What sets that projection apart from every other
linear map of a block: its input at a position comes from other linear maps of the block by element-wise functions alone.
Attention mixes positions; norms mix features. So the model runs once on a few tokens with every linear map cut out of the
graph, and the gradients say which input comes from where. The proof is `proof.check_anatomy`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InvalidOption, ModelRefused, number_ranges
from .calls import N_TOKENS, Call, by_layer, forward_calls, some_tokens

BY_HAND = "model.layers.{i}.mlp.down_proj"
"""What a pattern looks like that names the output projections of the FFNNs."""


@dataclass(frozen=True)
class Anatomy:
    """Names of a model's parts, and its sizes. `blocks`, `ffns` and `ffn_outputs` are by layer, in the order in which
    they run; layers that share a module name it again.

    `ffns` are the modules around a whole FFNN, None where it is not a module of its own. `unembedding` is None where the
    model predicts no token. A model that is not causal is an encoder: each position sees all.
    """

    embedding: str
    blocks: tuple[str, ...]
    ffns: tuple[str | None, ...]
    ffn_outputs: tuple[str, ...]
    final_norm: str | None
    unembedding: str | None
    d_model: int
    d_ff: int
    vocab_size: int
    is_causal: bool = True

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def ffn(self) -> str:
        """The output projections of the FFNNs as a pattern, `{i}` for the layer's number."""
        return _pattern(self.blocks[0], self.ffn_outputs[0])


def find_anatomy(model: nn.Module, name: str, *, ffn: str | None = None, is_causal: bool = True) -> Anatomy:
    """The parts of a language model. `ffn` names the FFNNs' output projections, as `model.layers.{i}.mlp.down_proj`.

    Raises ModelRefused, with what was found, or InvalidOption for a pattern that names no modules of this model.
    Cost: two forward passes over six tokens, and a few backward passes through single FFNNs.
    """
    named = None if ffn is None else _named(model, ffn)
    ids = some_tokens(model)
    calls = forward_calls(model, ids)
    weighted = [call for call in calls if isinstance(getattr(call.module, "weight", None), Tensor)]
    embedding = next((c for c in weighted if c.input.shape == ids.shape and torch.equal(c.input, ids)), None)
    if embedding is None:
        raise ModelRefused(name, "no module was given the token ids, so the input embedding was not found")
    vocab_size = len(embedding.module.weight)  # type: ignore[arg-type]
    linear = [call for call in weighted if call.is_linear]
    if not linear:
        raise ModelRefused(name, "no linear map with a plain two-dimensional weight ran (is the model quantized?)")
    blocks = _blocks(model, calls, name) if named is None else _blocks_of(calls, named, str(ffn), name)
    if mixture := _mixture_of_experts(model, blocks):  # beside which a dense FFNN may stand
        raise ModelRefused(name, mixture)
    last_block = by_layer(calls, blocks)[-1]
    unembedding = linear[-1] if linear[-1].start > last_block.end else None
    if unembedding is not None and not is_causal and unembedding.output.shape[-1] < vocab_size:
        unembedding = None  # a head that is for something else
    if is_causal and unembedding is None:
        raise ModelRefused(name, "no linear map ran after the blocks, so the unembedding was not found")
    cut_calls = forward_calls(model, ids, cut_linear=True)
    ffns, outputs = zip(
        *(
            _ffn(block, cut_calls, last_block.output.shape[-1], name, None if named is None else set(named))
            for block in by_layer(cut_calls, blocks)
        ),
        strict=True,
    )
    widths = {call.input.shape[-1] for call in linear if call.name in outputs}
    if len(widths) > 1:
        found = ", ".join(map(str, sorted(widths)))
        raise ModelRefused(name, f"its layers have FFNNs of different widths: {found}")
    norms = [call.name for call in weighted if call.start > last_block.end and call.module.weight.ndim == 1]
    return Anatomy(
        embedding=embedding.name,
        blocks=blocks,
        ffns=ffns,
        ffn_outputs=outputs,
        final_norm=norms[-1] if norms else None,
        unembedding=unembedding.name if unembedding else None,
        d_model=last_block.output.shape[-1],
        d_ff=widths.pop(),
        vocab_size=unembedding.output.shape[-1] if unembedding else vocab_size,
        is_causal=is_causal,
    )


def check_pattern(pattern: str) -> None:
    """Raise InvalidOption unless the pattern says where the layer's number stands."""
    if "{i}" not in pattern.rpartition(".")[0]:
        raise InvalidOption("ffn", pattern, f"write {{i}} where the layer's number stands, as in {BY_HAND}")


def _mixture_of_experts(model: nn.Module, blocks: Sequence[str]) -> str | None:
    """Why a model whose blocks hold experts is not recorded, and where they are; None where there are none."""
    for block in dict.fromkeys(blocks):
        for path, module in model.get_submodule(block).named_modules(prefix=block):
            if "expert" not in f"{path} {type(module).__name__}".lower():  # XLNet's attention has such weights too
                continue
            n_experts = max((len(p) for p in module.parameters(recurse=False) if p.ndim == 3), default=1)
            if isinstance(module, nn.ModuleList | nn.ModuleDict) and path.endswith("experts"):
                n_experts = sum(
                    any(True for _ in child.parameters()) for child in module.children()
                )  # NLLB-MoE has a dropout
            if n_experts > 1:
                return (
                    f"it is a mixture of experts ({path} holds {n_experts}), which is not supported: "
                    "a token passes through those that it is routed to, so no neuron has an activation at every position"
                )
    return None


def _named(model: nn.Module, pattern: str) -> tuple[str, ...]:
    """The modules that a pattern names, by layer, each under the first of its names."""
    check_pattern(pattern)
    modules = dict(model.named_modules(remove_duplicate=False))
    names = list(takewhile(modules.__contains__, (pattern.replace("{i}", str(layer)) for layer in count())))
    if not names:
        linear = dict.fromkeys(
            _pattern(path, path) for path, module in modules.items() if isinstance(module, nn.Linear) and "." in path
        )
        raise InvalidOption("ffn", pattern, f"the model has no such module; its linear maps are {', '.join(linear)}")
    path = _block_of(pattern).rpartition(".")[0]
    siblings = [child for child, _ in modules[path].named_children()] if path in modules else []
    layers = [int(child) for child in siblings if child.isdecimal()]
    lacking = [layer for layer in layers if pattern.replace("{i}", str(layer)) not in modules]
    if lacking:
        raise InvalidOption("ffn", pattern, f"layers {number_ranges(lacking)} of {path} have no such module")
    first_names = {module: name for name, module in reversed(modules.items())}
    return tuple(first_names[modules[name]] for name in names)


def _blocks_of(calls: Sequence[Call], named: Sequence[str], pattern: str, name: str) -> tuple[str, ...]:
    """The blocks that the modules named by hand ran in, in order."""
    ran = [call for call in calls if call.name in set(named)]
    order = list(dict.fromkeys(call.name for call in ran))
    if order != list(dict.fromkeys(named)):
        missing = [module for module in named if module not in order]
        problem = f"{missing[0]} did not run" if missing else f"they ran in another order: {', '.join(order)}"
        raise ModelRefused(name, f"of the modules that {pattern!r} names, {problem}")
    depth = _block_of(pattern).count(".") + 1
    names = {".".join(module.split(".")[:depth]) for module in named}
    around = [next((call.name for call in calls if call.name in names and call.holds(one)), None) for one in ran]
    if None in around:
        raise ModelRefused(name, f"{ran[around.index(None)].name} did not run inside a block that is a module")
    return tuple(block for block in around if block)


def _blocks(model: nn.Module, calls: Sequence[Call], name: str) -> tuple[str, ...]:
    """The transformer blocks, as they ran: the largest list of modules that all ran, each once, in order; where there is
    none, the largest of those that ran several times, as layers that share their weights do."""
    lists = {
        path: [f"{path}.{child}" for child, _ in module.named_children()]
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    runs = {path: [call.name for call in calls if call.name in set(names)] for path, names in lists.items()}
    once = [path for path, names in lists.items() if runs[path] == names]
    again = [path for path, names in lists.items() if list(dict.fromkeys(runs[path])) == names]
    if not again:
        raise ModelRefused(
            name,
            "it has no list of modules that all run and in order, so its blocks were not found; "
            f"name the FFNNs' output projections by hand, as --ffn '{BY_HAND}'",
        )
    sizes = {path: sum(p.numel() for p in model.get_submodule(path).parameters()) for path in again}
    largest = max(once or again, key=lambda path: (sizes[path], path.count(".")))  # ALBERT has a list in a list
    return tuple(runs[largest])


def _ffn(block: Call, cut: Sequence[Call], d_model: int, name: str, named: set[str] | None) -> tuple[str | None, str]:
    """The module around a block's FFNN (None if that is the block itself), and the FFNN's output projection.

    Of those named by hand it must be one, and the search must find it too, wherever it finds any.
    """
    inside = [call for call in cut if block.holds(call)]
    linear = [call for call in inside if call.is_linear and call.output.requires_grad]
    found: dict[str, list[Call]] = {}
    elementwise, mixing = [], []
    for index, call in enumerate(linear):
        sources = _sources(call, linear[:index]) if call.output.shape[-1] == d_model else None
        if sources:
            found[call.name] = [source for source, _ in sources]
            elementwise.extend([call.name] if all(n_features <= 2 for _, n_features in sources) else [])
        elif sources is not None:
            mixing.append(call.name)
    candidates = elementwise or list(found)
    if named is not None:
        candidates = _agreed(candidates, mixing, linear, block, name, named)
    if len(candidates) != 1:
        raise ModelRefused(name, _what_was_found(block, linear, candidates))
    (projection,) = candidates
    output = next(call for call in linear if call.name == projection)
    whole = [output, *found.get(projection, [])]
    around = [call for call in inside if all(call.holds(part) for part in whole)] if len(whole) > 1 else []
    return (min(around, key=lambda call: call.end).name if around else None), projection


def _agreed(
    candidates: Sequence[str], mixing: Sequence[str], linear: Sequence[Call], block: Call, name: str, named: set[str]
) -> list[str]:
    """The projection of a block that was named by hand, if nothing that was found speaks against it."""
    chosen = [call.name for call in linear if call.name in named]
    if not chosen:
        raise ModelRefused(
            name, f"in {block.name}, the module named by hand is not a linear map with a plain two-dimensional weight"
        )
    if chosen[0] in mixing:
        raise ModelRefused(name, f"{chosen[0]} takes from other positions, as attention's output projection does")
    if candidates and chosen[0] not in candidates:
        patterns = ", ".join(repr(_pattern(block.name, candidate)) for candidate in candidates)
        raise ModelRefused(name, f"{chosen[0]} does not look like the output of an FFNN; found was {patterns}")
    return chosen


def _what_was_found(block: Call, linear: Sequence[Call], candidates: Sequence[str]) -> str:
    if candidates:
        patterns = [_pattern(block.name, candidate) for candidate in candidates]
        ways = " or ".join(f"--ffn '{pattern}'" for pattern in patterns)
        return f"in {block.name}, {len(candidates)} projections look like the output of an FFNN; say which: {ways}"
    maps = ", ".join(call.name.removeprefix(f"{block.name}.") for call in linear) or "none"
    return (
        f"in {block.name}, no projection is the output of a dense FFNN (its linear maps: {maps}); quantized weights and "
        f"blocks without an FFNN are not supported; if one of these is it, name it, as --ffn '{BY_HAND}'"
    )


def _sources(call: Call, earlier: Sequence[Call]) -> list[tuple[Call, int]] | None:
    """The linear maps whose outputs `call`'s input comes from at its own position only, and how many features one
    neuron takes from each. None if it comes from none; an empty list if other positions take part."""
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
            return []
        one_neuron = _gradient(last[last.abs().argmax()], source)
        sources.append((source, 0 if one_neuron is None else int(one_neuron[-1].count_nonzero())))
    return sources or None


def _gradient(of: Float[Tensor, ""], source: Call) -> Float[Tensor, "positions features"] | None:
    """The gradient with respect to the output of a cut linear map; None where it is all zero."""
    (gradient,) = torch.autograd.grad(of, source.output, retain_graph=True, allow_unused=True)
    if gradient is None or not gradient.any():
        return None
    return gradient.reshape(-1, gradient.shape[-1])


def _pattern(block: str, module: str) -> str:
    """A module's name with `{i}` in place of the block's number, or of the last number where the block has none.

    >>> _pattern("model.layers.3", "model.layers.3.mlp.down_proj")
    'model.layers.{i}.mlp.down_proj'
    """
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts[: block.count(".") + 1]) if part.isdecimal()]
    return ".".join("{i}" if numbers and index == numbers[-1] else part for index, part in enumerate(parts))


def _block_of(pattern: str) -> str:
    """A pattern as far as the layer's number.

    >>> _block_of("model.layers.{i}.mlp.down_proj")
    'model.layers.{i}'
    """
    parts = pattern.split(".")
    return ".".join(parts[: max(index for index, part in enumerate(parts) if "{i}" in part) + 1])
