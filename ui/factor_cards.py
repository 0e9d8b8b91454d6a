"""Factors of a corpus as cards: each with its share, stability and label, its strongest tokens in their contexts, its neurons."""

from typing import Any

import numpy as np
import pandas as pd

from ..queries import Factors
from .address import MAX_FACTORS
from .examples import contexts_payload, examples_payload, records

N_TOKENS, N_NEURONS, MANY = 3, 8, 4
AROUND = 48
"""Tokens on each side of an example that a notebook keeps."""

APART = 4 * AROUND
"""Of one generation a notebook shows the tokens that lie within so many of the strongest one, so that what is kept is bounded."""


def corpus_factors_payload(factors: Factors) -> dict[str, Any]:
    """What `static/factorization.js` draws of the factors of a corpus where there is no app: no more than 64 of them, each with
    three tokens and some hundred tokens around them, whatever the size of the corpus and of its generations."""
    labels, shown = factors.labels(), min(factors.k, MAX_FACTORS)
    stability = np.full(factors.k, np.nan) if factors.stability is None else factors.stability
    cards = [
        card(
            factor,
            factors.explained[factor],
            stability[factor],
            labels.get(factor, ""),
            tokens,
            factors.top_neurons(factor, N_NEURONS),
            factors.contexts(tokens, factor),
            around=AROUND,
        )
        for factor in range(shown)
        for tokens in [_near(factors.top_tokens(factor, MANY * N_TOKENS)).head(N_TOKENS)]
    ]
    return {
        "kind": "factorization",
        "name": "factors",
        "note": f"all but the first {shown} of {factors.k} factors" if shown < factors.k else "",
        "factorization": {"base": None, "cards": cards},
    }


def _near(tokens: pd.DataFrame) -> pd.DataFrame:
    """Of each generation the tokens that lie near its first one here."""
    first = tokens.groupby("generation_id")["position"].transform("first")
    return tokens[(tokens["position"] - first).abs() <= APART]


def card(
    factor: int,
    explained: float | None,
    stability: float | None,
    label: str,
    tokens: pd.DataFrame,
    neurons: pd.DataFrame,
    contexts: pd.DataFrame,
    **more: int,
) -> dict[str, Any]:
    """One card: `tokens` and `neurons` are those that it shows, `contexts` the whole generations of the tokens with the factor's
    value at each."""
    places = list(zip(tokens["generation_id"].tolist(), tokens["position"].tolist(), strict=True))
    return {
        "factor": factor,
        "explained": _known(explained),
        "stability": _known(stability),
        "label": label,
        "examples": examples_payload(tokens, "value"),
        "contexts": contexts_payload(contexts, "value", places, **more),
        "neurons": [{name: row[name] for name in ("layer", "neuron", "weight")} for row in records(neurons)],
    }


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
