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

    `rows` are whole generations: generation_id, position, token, is_generated, is_special, and `value`; `shown` are
    (generation_id, position).
    """
    wanted: dict[int, list[int]] = {}
    for generation_id, position in shown:
        wanted.setdefault(int(generation_id), []).append(int(position))
    payload = {}
    for generation_id, positions in sorted(wanted.items()):
        all_of_it = rows[rows["generation_id"] == generation_id]
        near = all_of_it["position"].between(min(positions) - around, max(positions) + around)
        context = all_of_it[near]
        payload[str(generation_id)] = {
            "first": int(context["position"].iloc[0]),
            "text": [str(token) for token in context["token"]],
            "generated": [bool(flag) for flag in context["is_generated"]],
            "special": [bool(flag) for flag in context["is_special"]],
            "values": float32_base64(context[value].to_numpy(np.float32)),
            "more_before": int((all_of_it["position"] < context["position"].iloc[0]).sum()),
            "more_after": int((all_of_it["position"] > context["position"].iloc[-1]).sum()),
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
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
