"""Payloads of the two maps: `static/activations.js` (positions × neurons) and `static/layers.js` (layers × positions)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..queries import Generation, HeatMap
from .strip import float32_base64, int32_base64, tokens_payload

LAYERS_ROOM = 12_000_000
"""Most bytes of the likeliest tokens of all cells that are sent to a page."""


def activations_payload(
    generation: Generation, heat_map: HeatMap, *, neuron_link: str = "", room: int | None = None
) -> dict[str, Any]:
    """What `activations` draws. `neuron_link` is the address of a neuron's page, with {layer} and {neuron} in it.

    Of more than `room` bytes the last neurons drawn are left out, and the payload's note says so.
    """
    n_drawn = len(heat_map.neurons)
    note = f"the {n_drawn:,} of {heat_map.n_neurons:,} that vary most" if n_drawn < heat_map.n_neurons else ""
    kept = n_drawn if room is None else min(n_drawn, max(1, room // (4 * max(1, len(heat_map.position)))))
    return {
        "kind": "activations",
        "name": f"generation-{generation.generation_id}-activations-{heat_map.layer}",
        "note": f"all but the first {kept} of {n_drawn} neurons" if kept < n_drawn else "",
        **tokens_payload(generation),
        "activations": {
            "layer": int(heat_map.layer),
            "order": heat_map.order,
            "positions": heat_map.position.tolist(),
            "neurons": int32_base64(heat_map.neurons[:kept]),
            "clusters": None if heat_map.clusters is None else heat_map.clusters[:kept].tolist(),
            "values": float32_base64(heat_map.values[:, :kept]),
            "note": note,
        },
        "links": {"neuron": neuron_link} if neuron_link else {},
    }


def layers_payload(
    generation: Generation,
    predictions: pd.DataFrame,
    watched: pd.DataFrame | None = None,
    watched_position: int = 0,
    *,
    room: int = LAYERS_ROOM,
) -> dict[str, Any]:
    """What `layers` draws: of `predictions` (a row for each layer and position) ranks and likeliest tokens; of `watched` (a
    row for each layer and token) ranks at one position.

    Where all likeliest tokens of each cell are more than `room` bytes, fewer are sent, and the payload's note says so.
    """
    layers, positions = sorted(set(predictions["layer"])), sorted(set(predictions["position"]))
    shape = (len(layers), len(positions))
    ordered = predictions.sort_values(["layer", "position"])
    recorded = max((len(texts) for texts in ordered["top_tokens"]), default=1)
    k = min(recorded, max(1, room // (8 * max(1, len(ordered)))))
    texts: dict[str, int] = {}
    top = np.zeros((len(ordered), k), np.int32)
    probabilities = np.zeros((len(ordered), k), np.float32)
    for row, (said, probability) in enumerate(zip(ordered["top_tokens"], ordered["top_probabilities"], strict=True)):
        for place in range(min(k, len(said))):
            top[row, place] = texts.setdefault(str(said[place]), len(texts))
            probabilities[row, place] = probability[place]
    ranks = ordered["rank"].fillna(0).to_numpy(np.int32).reshape(shape)
    return {
        "kind": "layers",
        "name": f"generation-{generation.generation_id}-layers",
        "note": f"of each cell all but the {k} likeliest of {recorded} tokens" if k < recorded else "",
        **tokens_payload(generation),
        "layers": {
            "layers": [int(layer) for layer in layers],
            "positions": [int(position) for position in positions],
            "k": k,
            "ranks": int32_base64(ranks),
            "probabilities": float32_base64(ordered["probability"].fillna(0).to_numpy(np.float32)),
            "texts": list(texts),
            "top": int32_base64(top),
            "top_probabilities": float32_base64(probabilities),
            "watched": None if watched is None else watched_payload(watched, watched_position),
        },
    }


def watched_payload(watched: pd.DataFrame, position: int) -> dict[str, Any]:
    """What `watchedChart` draws: the rank and probability of each token after each layer, at one position."""
    tokens: Sequence[str] = list(dict.fromkeys(watched["token"]))
    by_layer = watched.pivot(index="token", columns="layer", values=["rank", "probability"]).loc[list(tokens)]
    ranks, probabilities = by_layer["rank"], by_layer["probability"]
    return {
        "tokens": [str(token) for token in tokens],
        "layers": [int(layer) for layer in ranks.columns],
        "position": position,
        "ranks": int32_base64(ranks.to_numpy()),
        "probabilities": float32_base64(probabilities.to_numpy()),
    }
