"""Payloads of examples: positions with their whole contexts, each context once, each token with one value."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .strip import float32_base64

MOST_AROUND = 200
"""Tokens of a context that are sent on each side of what is shown of it."""

CONTEXT_COLUMNS = ("token", "is_generated", "is_special")


def contexts_payload(
    rows: pd.DataFrame, value: str, shown: Iterable[tuple[int, int]], *, around: int = MOST_AROUND
) -> dict[str, Any]:
    """What `static/examples.js` takes as contexts: of each generation the tokens from 200 (or `around`) before the first that is
    shown of it to as many after the last.

    `rows` are whole generations, in order: generation_id, position, token, is_generated, is_special, and `value`; `shown` are
    (generation_id, position).
    """
    wanted: dict[int, list[int]] = {}
    for generation_id, position in shown:
        wanted.setdefault(int(generation_id), []).append(int(position))
    ids, positions, values = (rows[name].to_numpy() for name in ("generation_id", "position", value))
    texts, generated, special = (rows[name].tolist() for name in CONTEXT_COLUMNS)
    payload = {}
    for generation_id, at in sorted(wanted.items()):
        first, end = np.searchsorted(ids, [generation_id, generation_id + 1]).tolist()
        bounds = [min(at) - around, max(at) + around + 1]
        start, stop = (first + np.searchsorted(positions[first:end], bounds)).tolist()
        payload[str(generation_id)] = {
            "first": int(positions[start]),
            "text": texts[start:stop],
            "generated": generated[start:stop],
            "special": special[start:stop],
            "values": float32_base64(values[start:stop].astype(np.float32)),
            "more_before": start - first,
            "more_after": end - stop,
        }
    return payload


def examples_payload(rows: pd.DataFrame, value: str, notes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The examples of `static/examples.js`: generation_id, position and `value` of each row, with its note."""
    made = [
        {"generation_id": int(row["generation_id"]), "position": int(row["position"]), "value": float(row[value])}
        for row in records(rows)
    ]
    return [example | {"note": note} for example, note in zip(made, notes, strict=True)] if notes else made


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, each as a dict of Python's own values."""
    columns = (frame[name].tolist() for name in frame)
    return [dict(zip(map(str, frame), row, strict=True)) for row in zip(*columns, strict=True)]
