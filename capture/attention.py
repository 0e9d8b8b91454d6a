"""Attention whose graph goes backward for many outputs at once.

torch has no batched rule for its fused attention, and takes an output at a time. With the shares in hand, the
products of all outputs are a few batched matrix products: for O = P V, P = softmax(S), and a gradient dO,
dV = Pᵀ dO, dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), dQ = dS K, dK = dSᵀ Q (Dao et al. 2022, arXiv:2205.14135, appendix B).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .reach import Reach


class LinearizedAttention(TorchFunctionMode):
    """A context, in which calls of torch's attention make graphs of this kind; their values are torch's own."""

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self._reach = reach

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not scaled_dot_product_attention or not output.requires_grad or output.ndim != 4:
            return output
        asked = _asked(*args, **(kwargs or {}))
        q, k, v, mask = (asked[name] for name in ("query", "key", "value", "attn_mask"))
        is_plain = len(q) == len(k) == len(v) and q.shape[1] % k.shape[1] == 0 and k.shape[1] == v.shape[1]
        if asked["dropout_p"] or (mask is not None and mask.requires_grad) or not is_plain:
            return output
        core = _Core(asked["is_causal"], asked["scale"], self._reach)
        given: Tensor = _Attention.apply(q, k, v, output.detach(), mask, core)  # type: ignore[no-untyped-call]
        return given


def _asked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> dict[str, Any]:
    """What a call asks for, by name (the signature is torch's)."""
    return dict(locals())


Products = tuple[
    Float[Tensor, "... heads pos d"], Float[Tensor, "... groups key d"], Float[Tensor, "... groups key d_v"]
]


@dataclass(frozen=True)
class _Core:
    """One call's products, from what it was given."""

    is_causal: bool
    scale: float | None
    reach: Reach

    def __call__(
        self,
        gradients: Float[Tensor, "output batch heads pos d_v"],
        q: Float[Tensor, "batch heads pos d"],
        k: Float[Tensor, "batch groups key d"],
        v: Float[Tensor, "batch groups key d_v"],
        out: Float[Tensor, "batch heads pos d_v"],
        mask: Tensor | None,
    ) -> Products:
        """The gradients of queries, keys and values, for each output. What no output reaches is left out."""
        batch, heads, pos, _ = q.shape
        groups, key = k.shape[1:3]
        width = self._width(gradients)
        shares = self._shares(q[:, :, :width], k, mask)  # (batch, groups, heads of a group × width, key)
        seen = width if key == pos and not shares[..., width:].any() else key
        shares, k_seen, v_seen = shares[..., :seen], k[:, :, :seen], v[:, :, :seen]
        of_group = (heads // groups) * width
        d_out = gradients[..., :width, :].reshape(-1, batch, groups, of_group, v.shape[-1])
        d_scores = d_out @ v_seen.transpose(-1, -2)
        d_scores -= (d_out * out[:, :, :width].reshape(batch, groups, of_group, -1)).sum(-1, keepdim=True)
        d_scores *= shares * self._scale(q)
        d_q = (d_scores @ k_seen).view(-1, batch, heads, width, q.shape[-1])
        d_k = d_scores.transpose(-1, -2) @ q[:, :, :width].reshape(batch, groups, of_group, -1)
        d_v = shares.transpose(-1, -2) @ d_out
        rest, unseen = (0, 0, 0, pos - width), (0, 0, 0, key - seen)
        return pad(d_q, rest), pad(d_k, unseen), pad(d_v, unseen)

    def _width(self, gradients: Float[Tensor, "output batch heads pos d_v"]) -> int:
        """How many queries have a gradient."""
        pos, width = gradients.shape[-2], self.reach.width
        if width is None or width >= pos or gradients[..., width:, :].any():
            return pos
        return width

    def _shares(
        self, q: Float[Tensor, "batch heads pos d"], k: Float[Tensor, "batch groups key d"], mask: Tensor | None
    ) -> Float[Tensor, "batch groups rows key"]:
        batch, heads, pos, d = q.shape
        groups, key = k.shape[1:3]
        scores = (q.reshape(batch, groups, -1, d) @ k.transpose(-1, -2)).view(batch, heads, pos, key) * self._scale(q)
        if self.is_causal:
            mask = torch.ones(pos, key, dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            mask = mask[..., :pos, :] if mask.shape[-2] != 1 else mask
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).nan_to_num(0).view(batch, groups, -1, key)  # a query that sees nothing has no share

    def _scale(self, q: Tensor) -> float:
        return float(q.shape[-1] ** -0.5) if self.scale is None else self.scale


class _Attention(torch.autograd.Function):
    """What attention gave, by what it was given."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor, mask: Tensor | None, core: _Core) -> Tensor:
        ctx.save_for_backward(q, k, v, output)
        ctx.mask, ctx.core = mask, core
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given = [each.detach() for each in ctx.saved_tensors]
        d_q, d_k, d_v = _AttentionProduct.apply(gradient, *given, ctx.mask, ctx.core)  # type: ignore[no-untyped-call]
        return d_q, d_k, d_v, None, None, None


class _AttentionProduct(torch.autograd.Function):
    """A gradient, or those of many outputs, through attention."""

    @staticmethod
    def forward(
        gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor | None, core: _Core
    ) -> Products:
        d_q, d_k, d_v = core(gradient[None], q, k, v, out, mask)
        return d_q[0], d_k[0], d_v[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], gradients: Tensor, *given: Any) -> tuple[Products, tuple[int, ...]]:
        *tensors, mask, core = given
        return core(gradients.movedim(in_dims[0], 0), *tensors, mask), (0, 0, 0)
