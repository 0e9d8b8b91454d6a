"""The token strip: what it is given to draw, and the component that draws it in the app.

The drawing is `static/strip.js`, a plain ES module that runs in any page. It is given one JSON document: the tokens as
columns and one matrix as base64 of little-endian float32, the smallest form that a browser reads without a library.
"""

import base64
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import param
from panel.custom import JSComponent

from ..queries import Factors, Generation, Method, SaliencyMatrix

SIGNED: frozenset[Method] = frozenset({"grad_dot_input"})

STATIC = Path(__file__).parent / "static"
STRIP_JS = STATIC / "strip.js"
STRIP_CSS = STATIC / "strip.css"


def saliency_payload(generation: Generation, saliency: SaliencyMatrix) -> dict[str, Any]:
    """What `saliencyStrip` draws: the tokens, and a share for every output position and every earlier position."""
    method = saliency.method
    return {
        **_tokens_payload(generation),
        "saliency": {"method": method, "signed": method in SIGNED, "shares": _float32_base64(saliency)},
    }


def factors_payload(generation: Generation, factors: Factors) -> dict[str, Any]:
    """What `factorStrip` draws: the tokens, and a value for every token and factor, NaN where a token was not factored."""
    values = np.full((generation.n_tokens, factors.k), np.nan, np.float32)
    values[generation.layer_positions] = factors.tokens
    return {
        **_tokens_payload(generation),
        "factors": {
            "k": factors.k,
            "layers": [int(layer) for layer in factors.layers],
            "error": float(factors.error),
            "values": _float32_base64(values),
        },
    }


class TokenStrip(JSComponent):
    """The token strip in a Panel page.

    `payload` is JSON text, empty while there is nothing to draw; `busy` dims what is drawn while something newer is
    worked out. The page writes `output` (the pinned output position), `factor` (the pinned factor) and `detailed`.
    """

    payload = param.String(default="")
    busy = param.Boolean(default=False)
    output = param.Integer(default=None, allow_None=True)
    detailed = param.Boolean(default=False)
    factor = param.Integer(default=None, allow_None=True)

    _esm = STRIP_JS
    _stylesheets: ClassVar[list[str]] = [STRIP_CSS.read_text(encoding="utf-8")]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)  # type: ignore[no-untyped-call]  # Panel does not annotate it

    def draw(self, payload: dict[str, Any]) -> None:
        """Shows this payload in place of the one before."""
        self.payload = json.dumps(payload, allow_nan=False)


def _tokens_payload(generation: Generation) -> dict[str, Any]:
    tokens = generation.tokens
    return {
        "n_prompt": int(generation.n_prompt_tokens),
        "tokens": {
            "text": [str(token) for token in tokens["token"]],
            "id": [int(token_id) for token_id in tokens["token_id"]],
            "generated": [bool(flag) for flag in tokens["is_generated"]],
            "special": [bool(flag) for flag in tokens["is_special"]],
            "logprob": _numbers(tokens["logprob"]),
            "rank": _numbers(tokens["rank"]),
            "entropy": _numbers(tokens["entropy"]),
        },
    }


def _numbers(column: "pd.Series[Any]") -> list[float | None]:
    """The column with None where it holds no finite number: JSON has no NaN."""
    return [None if pd.isna(value) or not math.isfinite(value) else value for value in column.tolist()]


def _float32_base64(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")
