"""What is drawn of a neuron: its statistics, its histogram, and examples of it in their contexts, in the app and in notebooks."""

from typing import Any

import pandas as pd

from ..queries import Neuron
from .address import NeuronAddress
from .examples import CONTEXT_COLUMNS, contexts_payload, examples_payload, records

N_BINS = 64
QUANTILE_BINS = 5
PER_BIN = 2


def neuron_payload(neuron: Neuron, address: NeuronAddress | None = None, base: str | None = "./") -> dict[str, Any]:
    """What `static/neuron.js` draws. Links begin with `base`; where there is no app to lead to, it is None."""
    asked = address or NeuronAddress(neuron.layer, neuron.neuron)
    positive, negative = (neuron.examples(sign, asked.n) for sign in ("positive", "negative"))
    drawn = neuron.quantile_examples(QUANTILE_BINS, PER_BIN, asked.seed)[::-1]
    notes = [
        f"fifth {row['bin'] + 1} of {QUANTILE_BINS}: {row['lower']:.3g} to {row['upper']:.3g}" for row in records(drawn)
    ]
    of_bins = [
        example | {name: row[name] for name in ("bin", "lower", "upper")}
        for example, row in zip(examples_payload(drawn, "activation", notes), records(drawn), strict=True)
    ]
    everything = pd.concat([positive, negative, drawn])
    shown = list(zip(everything["generation_id"], everything["position"], strict=True))
    rows = neuron.contexts(sorted(set(everything["generation_id"].tolist())), CONTEXT_COLUMNS)
    bins = neuron.binned(N_BINS)
    edges = [*bins["lower"].tolist(), *bins["upper"].tolist()[-1:]]
    sections: list[dict[str, Any]] = [
        {"name": "Greatest", "note": "above zero", "examples": examples_payload(positive, "activation")},
        {"name": "Least", "note": "below zero", "examples": examples_payload(negative, "activation")},
        {"name": "Random", "note": f"{PER_BIN} from each fifth of the values", "examples": of_bins},
    ]
    return {
        "kind": "neuron",
        "name": f"layer-{neuron.layer}-neuron-{neuron.neuron}",
        "neuron": {
            "layer": neuron.layer,
            "neuron": neuron.neuron,
            "base": base,
            "stats": {name: _finite(value) for name, value in neuron.stats.items()},
            "histogram": {"edges": edges, "counts": bins["n"].tolist()},
            "sections": sections,
            "contexts": contexts_payload(rows, "activation", shown),
        },
    }


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
