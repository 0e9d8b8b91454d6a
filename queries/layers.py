"""What a model would say after each of its layers, from hidden states that were stored: the logit lens, asked later."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32

from ..store import CapturedPredictions
from .asking import AskedModel, Lens

States = Mapping[int, Float32[np.ndarray, "positions d_model"]]
"""Hidden states by layer."""


def predictions_after_layers(
    model: AskedModel,
    states: States,
    positions: Int32[np.ndarray, "positions"],
    targets: Sequence[int],
    lens: Lens = "normed",
) -> pd.DataFrame:
    """The rows that `layer_predictions` would have: position, layer, rank and probability of the target (missing where it is -1),
    and the likeliest tokens; by layer and position.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    frames = [
        _frame(layer, positions, model.lens_predictions(layer, of, targets, lens)) for layer, of in states.items()
    ]
    return pd.concat(frames, ignore_index=True)


def watched_after_layers(
    model: AskedModel,
    states: States,
    positions: Int32[np.ndarray, "positions"],
    tokens: Mapping[int, str],
    lens: Lens = "normed",
) -> pd.DataFrame:
    """position, layer, token_id, token, rank (1 is the likeliest) and probability of some tokens, by position, layer, and in
    their order."""
    n, ids = len(tokens), list(tokens)
    frames = []
    for layer, hidden in states.items():
        rank, probability = model.lens_ranks(layer, hidden, ids, lens)
        columns = {
            "position": np.repeat(positions, n),
            "layer": np.full(rank.size, layer, np.int32),
            "token_id": np.tile(np.array(ids, np.int32), len(positions)),
            "token": list(tokens.values()) * len(positions),
            "rank": rank.reshape(-1),
            "probability": probability.reshape(-1),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames).sort_values(["position", "layer"], kind="stable", ignore_index=True)


def _frame(layer: int, positions: Int32[np.ndarray, "positions"], said: CapturedPredictions) -> pd.DataFrame:
    known = said.rank > 0
    return pd.DataFrame(
        {
            "position": positions,
            "layer": np.full(len(positions), layer, np.int32),
            "rank": np.where(known, said.rank, np.nan),
            "probability": np.where(known, said.probability, np.nan).astype(np.float32),
            "top_token_ids": list(said.top_token_ids),
            "top_tokens": list(said.top_tokens),
            "top_probabilities": list(said.top_probabilities),
        }
    )
