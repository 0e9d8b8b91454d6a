"""Payloads of the token strip: what `static/saliency.js` and `static/factors.js` are given to draw.

A payload is one JSON document: its `kind` names the view, the tokens are columns, and a matrix is base64 of little-endian
float32, the smallest form that a browser reads without a library.
"""

import base64
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..queries import Factors, Generation, SaliencyMatrix
from .modules import STATIC

__all__ = ["STATIC", "factors_payload", "float32_base64", "int32_base64", "saliency_payload", "tokens_payload"]

TARGETS = {
    "logit": "token's logit",
    "logprob": "token's log probability",
    "contrast": "token's logit less the runner-up's",
}


def saliency_payload(generation: Generation, saliency: SaliencyMatrix, *, room: int | None = None) -> dict[str, Any]:
    """What `saliency` draws: the boxes (tokens, words or lines), and a share for every output and every input.

    Of more than `room` bytes of shares the last outputs are left out, and the payload's note says so.
    """
    boxes = generation.groups(saliency.by or "token")
    rows = saliency.groups.rows if saliency.groups else []
    n_rows = len(rows)
    kept = n_rows if room is None else max(1, room // (4 * max(1, len(boxes))))
    rows, drawn = rows[:kept], np.asarray(saliency)[:kept]
    shares = np.zeros((len(rows), len(boxes)), np.float32)
    shares[:, : drawn.shape[1]] = drawn
    firsts = [first for first, _ in boxes]
    return {
        "kind": "saliency",
        "name": f"generation-{generation.generation_id}-saliency",
        "note": f"all but the first {kept} of {n_rows} outputs" if kept < n_rows else "",
        **tokens_payload(generation, boxes),
        "saliency": {
            "method": saliency.method,
            "signed": bool((np.asarray(saliency) < 0).any()),
            "masked": generation.n_tokens == generation.n_prompt_tokens,
            "target": TARGETS.get(saliency.target or ""),
            "outputs": [bisect_right(firsts, first) - 1 for first, _ in rows],
            "shares": float32_base64(shares),
        },
    }


def generation_payload(generation: Generation) -> dict[str, Any]:
    """What is drawn of a generation of which nothing but its tokens is known: the strip, with nothing to explain."""
    empty: dict[str, Any] = {
        "method": None,
        "signed": False,
        "masked": False,
        "target": None,
        "outputs": [],
        "shares": "",
    }
    name = f"generation-{generation.generation_id}"
    return {"kind": "saliency", "name": name, **tokens_payload(generation), "saliency": empty}


def factors_payload(
    generation: Generation, factors: Factors, labels: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """What `factors` draws: the tokens, and a value for every token and factor, NaN where a token was not factored.

    `labels` are people's names of factors.
    """
    values = np.full((generation.n_tokens, factors.k), np.nan, np.float32)
    values[generation.layer_positions if factors.position is None else factors.position] = factors.tokens
    return {
        "kind": "factors",
        "name": f"generation-{generation.generation_id}-factors",
        **tokens_payload(generation),
        "factors": {
            "k": factors.k,
            "layers": [int(layer) for layer in factors.layers],
            "method": factors.method,
            "error": float(factors.error),
            "explained": _finite(factors.explained),
            "explained_of": "energy" if factors.method == "nmf" else "variance",
            "stability": None if factors.stability is None else _finite(factors.stability),
            "labels": {str(factor): label for factor, label in (labels or {}).items()},
            "values": float32_base64(values),
        },
    }


def tokens_payload(generation: Generation, boxes: Sequence[tuple[int, int]] | None = None) -> dict[str, Any]:
    """The tokens as columns, an entry for each box of the strip, which stands for the positions `first` to `last` (one token,
    unless `boxes` says otherwise). Of several tokens the log probability is their sum, and id, rank and entropy are None."""
    tokens = generation.tokens
    columns: dict[str, list[Any]] = {
        "text": [str(token) for token in tokens["token"]],
        "first": list(range(len(tokens))),
        "last": list(range(len(tokens))),
        "id": [int(token_id) for token_id in tokens["token_id"]],
        "generated": [bool(flag) for flag in tokens["is_generated"]],
        "special": [bool(flag) for flag in tokens["is_special"]],
        "role": [None if pd.isna(role) else str(role) for role in tokens["role"]],
        "logprob": _numbers(tokens["logprob"]),
        "rank": _numbers(tokens["rank"]),
        "entropy": _numbers(tokens["entropy"]),
    }
    if boxes is not None:
        starts, ends, text = tokens["char_start"].tolist(), tokens["char_end"].tolist(), generation.text
        merged = [
            {name: column[first] for name, column in columns.items()}
            if first == last
            else _merged(columns, first, last, text[starts[first] : ends[last]])
            for first, last in boxes
        ]
        columns = {name: [box[name] for box in merged] for name in columns}
    return {"n_prompt": int(generation.n_prompt_tokens), "tokens": columns}


def _merged(columns: Mapping[str, list[Any]], first: int, last: int, text: str) -> dict[str, Any]:
    inside = slice(first, last + 1)
    logprobs = columns["logprob"][inside]
    return {
        "text": text,
        "first": first,
        "last": last,
        "id": None,
        "generated": any(columns["generated"][inside]),
        "special": all(columns["special"][inside]),
        "role": columns["role"][first],
        "logprob": None if None in logprobs else sum(logprobs),
        "rank": None,
        "entropy": None,
    }


def float32_base64(values: np.ndarray[Any, Any]) -> str:
    """An array, row after row, as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def int32_base64(values: np.ndarray[Any, Any]) -> str:
    """An array, row after row, as base64 of little-endian int32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<i4").tobytes()).decode("ascii")


def _finite(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _numbers(column: "pd.Series[Any]") -> list[float | None]:
    """The column with None where it holds no finite number: JSON has no NaN."""
    return [None if pd.isna(value) or not math.isfinite(value) else value for value in column.tolist()]
