"""`actlake saliency` and `actlake neuron`: the analyses that the app shows, as text or JSON."""

import json
import os
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import pandas as pd

from ..errors import InvalidOption
from ..queries import BYS, METHODS, SIGNS, By, Generation, Neuron, SaliencyMatrix, Store, shown, table_text
from .command import at_option, command, json_option
from .printing import counter

INTEGRATED = "integrated_gradients"
TEXT_BINS, BAR = 16, 40
ORANGE, BLUE = (230, 120, 20), (50, 110, 210)
MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥"}


@command
@click.argument("store", type=str)
@click.argument("generation_id", metavar="GENERATION", type=int)
@click.option("--output", "position", type=int, metavar="POSITION", help="One written token alone, by its position.")
@click.option(
    "--method", type=click.Choice((*METHODS, INTEGRATED)), default=METHODS[0], show_default=True, help="How to score."
)
@click.option("--by", type=click.Choice(BYS), default="token", show_default=True, help="What scores are added up to.")
@click.option("--model", metavar="MODEL", help=f"The model that was captured, which {INTEGRATED} needs.")
@click.option("--n-steps", type=int, default=50, show_default=True, help=f"Points of the path of {INTEGRATED}.")
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Inputs that are named of each output."
)
@at_option
@json_option
def saliency(
    store: str,
    generation_id: int,
    position: int | None,
    method: Any,
    by: By,
    model: str | None,
    n_steps: int,
    top: int,
    at: int | None,
    as_json: bool,
) -> None:
    """Say how much each earlier token counts for each token that the model wrote: shares that sum to 1.

    \b
    actlake saliency corpus 0
    actlake saliency corpus 0 --output 12 --by word
    actlake saliency corpus 0 --method grad_dot_input --json
    actlake saliency corpus 0 --output 12 --method integrated_gradients --model smollm2-135m
    """
    generation = Store(store, at=at).generation(generation_id)
    is_stored = method != INTEGRATED
    matrix = generation.saliency(method, by=by) if is_stored else _integrated(generation, model, position, by, n_steps)
    assert matrix.groups is not None
    assert matrix.scores is not None
    inputs, outputs = (_texts(generation, groups) for groups in (matrix.groups.columns, matrix.groups.rows))
    rows = _rows(matrix, position)
    if as_json:
        click.echo(json.dumps(_saliency_json(generation, matrix, rows, inputs, outputs)))
        return
    target = f", of its {matrix.target}" if matrix.target else ""
    click.echo(f"{method}{target}; what earlier {by}s of generation {generation_id} count for, in percent\n")
    if position is not None:
        (row,) = rows
        shares = np.asarray(matrix[row])
        click.echo(f"{_strip(inputs, shares)} → {_visible(outputs[row])}\n")
        table = [
            [_span(group), _visible(inputs[column]), matrix.scores[row, column], 100 * shares[column]]
            for column, group in enumerate(matrix.groups.columns)
            if group[0] < matrix.groups.rows[row][1] or shares[column]
        ]
        click.echo(table_text(["position", by, "score", "share"], table))
        return
    spans, written = ([_span(matrix.groups.rows[row]) for row in rows], [shown(_visible(outputs[row])) for row in rows])
    for row, span, text in zip(rows, spans, written, strict=True):
        shares = np.asarray(matrix[row])
        strongest = np.argsort(-np.abs(shares), kind="stable")[:top]
        named = [f"{_visible(inputs[i]).strip() or '␠'} {100 * shares[i]:.0f}" for i in strongest.tolist() if shares[i]]
        click.echo(f"{span:>{max(map(len, spans))}}  {text:<{min(max(map(len, written)), 40)}}  ← {',  '.join(named)}")


@command
@click.argument("store", type=str)
@click.argument("layer", type=int)
@click.argument("neuron_id", metavar="NEURON", type=int)
@click.option("--run", "run_id", type=int, metavar="N", help="Of one run alone.")
@click.option("--where", metavar="SQL", help="At tokens where this holds: a condition on tokens and generations.")
@click.option("--generated-only", is_flag=True, help="At tokens that the model wrote.")
@click.option("--special", is_flag=True, help="At special tokens too.")
@click.option("--examples", "n", type=click.IntRange(1), default=10, show_default=True, help="Strongest tokens a sign.")
@click.option("--related", "n_related", type=int, default=0, metavar="N", help="Neurons of the layer that go with it.")
@at_option
@json_option
def neuron(
    store: str,
    layer: int,
    neuron_id: int,
    run_id: int | None,
    where: str | None,
    generated_only: bool,
    special: bool,
    n: int,
    n_related: int,
    at: int | None,
    as_json: bool,
) -> None:
    """Say what a neuron does over the corpus: statistics, a histogram, and its strongest tokens of both signs.

    \b
    actlake neuron corpus 4 1234
    actlake neuron corpus 4 1234 --where "token = ','" --generated-only
    actlake neuron corpus 4 1234 --related 5 --json
    """
    opened = Store(store, at=at)
    found = opened.neuron(layer, neuron_id, run_id, where=where, generated_only=generated_only, special=special)
    examples = {sign: found.examples(sign, n) for sign in SIGNS}
    related = found.related(n_related) if n_related > 0 else None
    if as_json:
        said = {
            "layer": layer,
            "neuron": neuron_id,
            "model": found.model,
            "runs": found.run_ids,
            "where": where,
            "generated_only": generated_only,
            "special": special,
            "stats": {name: None if value != value else value for name, value in found.stats.items()},
            "histogram": found.histogram.to_dict("records"),
            "examples": {sign: frame.to_dict("records") for sign, frame in examples.items()},
        }
        said |= {} if related is None else {"related": related.to_dict("records")}
        click.echo(json.dumps(said))
        return
    runs = ", ".join(map(str, found.run_ids))
    click.echo(f"layer {layer}, neuron {neuron_id} of {found.model}, run {runs}\n")
    click.echo(table_text(list(found.stats), [list(found.stats.values())]))
    click.echo(f"\n{_bars(found.binned(TEXT_BINS))}")
    for sign, frame in examples.items():
        click.echo(f"\nstrongest, {sign}\n")
        rows = _in_context(found, frame)
        click.echo(
            table_text(["generation", "position", "activation", "token", "in context"], rows) if rows else "none"
        )
    if related is not None:
        click.echo("\nneurons of the layer that go with it\n")
        click.echo(table_text(list(related.columns), related.to_numpy(object).tolist()))


def _integrated(
    generation: Generation, model: str | None, position: int | None, by: By, n_steps: int
) -> SaliencyMatrix:
    if model is None:
        raise InvalidOption("model", None, f"{INTEGRATED} is computed with the model: name the one that was captured")
    from ..capture import load_model

    outputs = None if position is None else [position]
    with counter("tokens") as report:
        return generation.integrated_gradients(
            load_model(model), output_positions=outputs, n_steps=n_steps, by=by, on_progress=report
        )


def _rows(matrix: SaliencyMatrix, position: int | None) -> list[int]:
    """The rows of a position, or all."""
    assert matrix.groups is not None
    groups = matrix.groups.rows
    rows = [row for row, (first, last) in enumerate(groups) if position is None or first <= position <= last]
    if position is not None and not rows:
        written = f"{groups[0][0]} to {groups[-1][1]}" if groups else "none: there is nothing to explain"
        raise InvalidOption("output", position, f"choose from {written}")
    return rows


def _texts(generation: Generation, groups: Sequence[tuple[int, int]]) -> list[str]:
    tokens = generation.tokens["token"].tolist()
    return ["".join(tokens[first : last + 1]) for first, last in groups]


def _saliency_json(
    generation: Generation, matrix: SaliencyMatrix, rows: Sequence[int], inputs: list[str], outputs: list[str]
) -> dict[str, Any]:
    assert matrix.groups is not None
    assert matrix.scores is not None
    columns = enumerate(matrix.groups.columns)
    said = {name: getattr(matrix, name) for name in ("method", "target", "by")}
    deltas = matrix.deltas
    return {
        "generation_id": generation.generation_id,
        **said,
        "inputs": [{"first": first, "last": last, "text": inputs[i]} for i, (first, last) in columns],
        "outputs": [
            {
                "first": matrix.groups.rows[row][0],
                "last": matrix.groups.rows[row][1],
                "text": outputs[row],
                "scores": matrix.scores[row].tolist(),
                "shares": np.asarray(matrix[row]).tolist(),
                **({} if deltas is None else {"delta": float(deltas[row])}),
            }
            for row in rows
        ],
    }


def _strip(texts: Sequence[str], shares: np.ndarray) -> str:
    """The texts, each on a ground the stronger the greater its share: orange, or blue below 0."""
    if os.environ.get("NO_COLOR"):
        return "".join(map(_visible, texts))
    most = max(float(np.abs(shares).max(initial=0)), 1e-9)
    painted = []
    for text, share in zip(texts, shares.tolist(), strict=True):
        ground = ORANGE if share >= 0 else BLUE
        strength = abs(share) / most
        colour = tuple(round(strength * value) for value in ground)
        painted.append(click.style(_visible(text), bg=colour, fg="white") if strength > 0.05 else _visible(text))
    return "".join(painted)


def _visible(text: str) -> str:
    """A text in which nothing moves the cursor."""
    marked = "".join(MARKS.get(char, char) for char in text)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in marked)


def _span(group: tuple[int, int]) -> str:
    first, last = group
    return f"{first}" if first == last else f"{first}-{last}"


def _bars(histogram: pd.DataFrame) -> str:
    most = max(histogram["n"].max(), 1) if len(histogram) else 1
    rows = [
        [lower, upper, n, "█" * max(round(BAR * n / most), int(n > 0))]
        for lower, upper, n in zip(*(histogram[name].tolist() for name in ("lower", "upper", "n")), strict=True)
    ]
    return table_text(["from", "to", "tokens", ""], rows) if rows else "no tokens"


def _in_context(found: Neuron, examples: pd.DataFrame, before: int = 5, after: int = 3) -> list[list[Any]]:
    """Each example with some tokens before it and after it."""
    contexts = found.contexts(examples["generation_id"].tolist())
    texts = {key: frame["token"].tolist() for key, frame in contexts.groupby("generation_id")}
    rows = []
    columns = (examples[name].tolist() for name in ("generation_id", "position", "activation"))
    for generation_id, at, activation in zip(*columns, strict=True):
        tokens = [_visible(token) for token in texts[generation_id]]
        start = max(0, at - before)
        around = "".join([*tokens[start:at], "«", tokens[at], "»", *tokens[at + 1 : at + 1 + after]])
        rows.append([generation_id, at, activation, tokens[at], around])
    return rows
