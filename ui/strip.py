"""Payloads of the token strip: what `static/saliency.js` and `static/factors.js` are given to draw.

A payload is one JSON document: its `kind` names the view, the tokens are columns, and a matrix is base64 of little-endian
float32, the smallest form that a browser reads without a library.
"""

import base64
import math
from typing import Any

import numpy as np
import pandas as pd

from ..queries import Factors, Generation, Method, SaliencyMatrix
from .modules import STATIC

__all__ = ["STATIC", "factors_payload", "float32_base64", "saliency_payload", "tokens_payload"]

SIGNED: frozenset[Method] = frozenset({"grad_dot_input"})


def saliency_payload(generation: Generation, saliency: SaliencyMatrix) -> dict[str, Any]:
    """What `saliency` draws: the tokens, and a share for every output and every input."""
    n, outputs = generation.n_tokens, list(generation.output_positions)
    shares = np.zeros((len(outputs), n), np.float32)
    shares[:, : saliency.shape[1]] = saliency
    return {
        "kind": "saliency",
        **tokens_payload(generation),
        "saliency": {
            "method": saliency.method,
            "signed": saliency.method in SIGNED,
            "masked": n == generation.n_prompt_tokens,
            "outputs": outputs,
            "shares": float32_base64(shares),
        },
    }


def factors_payload(generation: Generation, factors: Factors) -> dict[str, Any]:
    """What `factors` draws: the tokens, and a value for every token and factor, NaN where a token was not factored."""
    values = np.full((generation.n_tokens, factors.k), np.nan, np.float32)
    values[generation.layer_positions] = factors.tokens
    return {
        "kind": "factors",
        **tokens_payload(generation),
        "factors": {
            "k": factors.k,
            "layers": [int(layer) for layer in factors.layers],
            "error": float(factors.error),
            "values": float32_base64(values),
        },
    }


def tokens_payload(generation: Generation) -> dict[str, Any]:
    """The tokens as columns, an entry for each box of the strip: `first` and `last` are the positions that it stands for."""
    tokens = generation.tokens
    positions = list(range(generation.n_tokens))
    return {
        "n_prompt": int(generation.n_prompt_tokens),
        "tokens": {
            "text": [str(token) for token in tokens["token"]],
            "first": positions,
            "last": positions,
            "id": [int(token_id) for token_id in tokens["token_id"]],
            "generated": [bool(flag) for flag in tokens["is_generated"]],
            "special": [bool(flag) for flag in tokens["is_special"]],
            "role": [None if pd.isna(role) else str(role) for role in tokens["role"]],
            "logprob": _numbers(tokens["logprob"]),
            "rank": _numbers(tokens["rank"]),
            "entropy": _numbers(tokens["entropy"]),
        },
    }


def float32_base64(values: np.ndarray[Any, Any]) -> str:
    """An array, row after row, as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _numbers(column: "pd.Series[Any]") -> list[float | None]:
    """The column with None where it holds no finite number: JSON has no NaN."""
    return [None if pd.isna(value) or not math.isfinite(value) else value for value in column.tolist()]
