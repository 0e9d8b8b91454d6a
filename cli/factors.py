"""`actlake factors`."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click

from ..queries import FACTOR_METHODS, NEGATIVES, POSITIONS, SOLVERS, Factors, Store, shown, table_text
from ..store import parse_ranges
from .command import at_option, command, json_option, terminable
from .printing import counter

MOST_TOKENS, MOST_NEURONS = 8, 5


@partial(command, left="factors are saved whole or not at all")
@click.argument("store", type=str)
@click.option(
    "--generation", "generations", multiple=True, type=int, metavar="N", help="Of these alone; may be repeated."
)
@click.option("--where", metavar="SQL", help="Of the tokens for which a condition on tokens and generations holds.")
@click.option("--k", type=int, default=5, show_default=True, help="How many factors.")
@click.option("--layers", metavar="LAYERS", help="Of these layers, as 0,3-5.  [default: all]")
@click.option("--method", type=click.Choice(FACTOR_METHODS), default="nmf", show_default=True)
@click.option("--positions", type=click.Choice(POSITIONS), default="all", show_default=True, help="Of these tokens.")
@click.option(
    "--negatives",
    type=click.Choice(NEGATIVES),
    default="auto",
    show_default=True,
    help="What becomes of values below 0.",
)
@click.option("--scale-layers", is_flag=True, help="Give all layers the same energy before.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--solver", type=click.Choice(SOLVERS), default="hals", show_default=True, help="Of nmf.")
@click.option(
    "--reruns", type=int, default=0, show_default=True, metavar="N", help="Try N other seeds, for the stability."
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where hals computes, as cuda or cpu; auto is a GPU where there is one and the work is worth it.",
)
@click.option("--save", "name", metavar="NAME", help="Keep them in the store, for SQL and the pages.")
@at_option
@json_option
@terminable()
def factors(
    store: str,
    generations: Sequence[int],
    layers: str | None,
    name: str | None,
    at: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Factor activations, of some generations or of the whole corpus, and print each factor's strongest tokens and neurons.

    A corpus that is larger than memory is streamed. Nothing is written without --save, and Ctrl-C leaves nothing.

    \b
    actlake factors corpus --generation 3 --layers 4
    actlake factors corpus --k 20 --layers 4 --reruns 5 --save "layer 4"
    actlake factors corpus --where "role = 'user' and not is_special" --method pca
    """
    opened = Store(store, at=at)
    chosen = parse_ranges(layers) if layers is not None else None
    with counter("steps") as report:
        found = opened.factors(layers=chosen, generations=list(generations) or None, on_progress=report, **options)
    saved = None if name is None else opened.save(found, name=name)
    rows = [_factor(opened, found, number) for number in range(found.k)]
    if as_json:
        click.echo(json.dumps(_facts(found) | {"factorization_id": saved, "factors": rows}))
        return
    facts = _facts(found)
    click.echo(
        f"{facts['n_tokens']} tokens, layers {facts['layers']}, {found.method}, negatives {found.negatives}: "
        f"error {found.error:.4f}, {found.n_iterations} rounds"
        f"{'' if found.converged else ' (not converged)'}"
    )
    click.echo(
        table_text(
            ["factor", "explained", "stability", "strongest tokens", "strongest neurons"], [_line(row) for row in rows]
        )
    )
    if saved is not None:
        click.echo(f"saved as factorization {saved}")


def _facts(found: Factors) -> dict[str, Any]:
    names = (
        "k",
        "method",
        "solver",
        "negatives",
        "positions",
        "where",
        "scale_layers",
        "seed",
        "error",
        "n_iterations",
        "converged",
    )
    said = {name: getattr(found, name) for name in names}
    return said | {"layers": list(found.layers), "n_tokens": len(found.tokens)}


def _factor(store: Store, found: Factors, number: int) -> dict[str, Any]:
    tokens = found.top_tokens(number, MOST_TOKENS).to_dict("records")
    ids = [row["generation_id"] for row in tokens], [row["position"] for row in tokens]
    query = """
        select generation_id, position, token
        from tokens
        where generation_id between $first and $last and list_contains($ids, generation_id)
    """
    bounds = {"first": min(ids[0], default=-1), "last": max(ids[0], default=-1), "ids": sorted(set(ids[0]))}
    with store.reading(query, bounds) as rows:
        texts = {(generation_id, position): token for generation_id, position, token in rows.fetchall()}
    neurons = found.top_neurons(number, MOST_NEURONS).to_dict("records")
    return {
        "factor": number,
        "explained": float(found.explained[number]),
        "stability": None if found.stability is None else float(found.stability[number]),
        "tokens": [row | {"token": texts[row["generation_id"], row["position"]]} for row in tokens],
        "neurons": neurons,
    }


def _line(row: Mapping[str, Any]) -> list[str]:
    tokens = " ".join(shown(repr(each["token"])) for each in row["tokens"])
    neurons = " ".join(f"{each['layer']}:{each['neuron']}" for each in row["neurons"])
    stability = "–" if row["stability"] is None else f"{row['stability']:.2f}"
    return [str(row["factor"]), f"{100 * row['explained']:.1f} %", stability, tokens, neurons]
