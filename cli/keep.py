"""Keeping a store: `actlake verify`, `index`, `compact` and `gc`."""

import dataclasses
import json

import click

from ..store import Location, parse_ranges
from ..store import compact as compact_store
from ..store import gc as gc_store
from ..store import index as index_store
from ..store import verify as verify_store
from .command import command, json_option
from .printing import counter, say


@command
@click.argument("store", type=str)
@click.option("--deep", is_flag=True, help="Read every byte and compare checksums.")
@json_option
def verify(store: str, deep: bool, as_json: bool) -> None:
    """Check that a store is what its log says: every file there, every generation once, with all its rows.

    \b
    actlake verify corpus
    actlake verify corpus --deep
    """
    report = verify_store(Location.of(store), deep=deep)
    if as_json:
        click.echo(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}))
    else:
        click.echo(report.sentence())
        for problem in report.problems:
            click.echo(f"  {problem}", err=True)
    if not report.ok:
        raise click.exceptions.Exit(1)


@command
@click.argument("store", type=str)
@click.option("--layers", metavar="LAYERS", help="Layers to index, as 0,3-5.  [default: all that were recorded]")
@click.option(
    "--rebuild", is_flag=True, help="Drop the projection before: what `actlake verify` found damaged is made again."
)
@json_option
def index(store: str, layers: str | None, rebuild: bool, as_json: bool) -> None:
    """Bring captured activations into the neuron-major projection, so that one neuron over the whole corpus is a small read.

    A capture does it at its end unless told otherwise. It is safe while others read and capture, and can be stopped and run
    again. It takes about as many bytes again as the activations have.

    \b
    actlake index corpus
    actlake index corpus --layers 0,3-5
    actlake index corpus --rebuild
    """
    chosen = parse_ranges(layers) if layers is not None else None
    with counter("tokens") as report:
        done = index_store(Location.of(store), layers=chosen, rebuild=rebuild, on_progress=report)
    say(done, as_json=as_json)


@command
@click.argument("store", type=str)
@json_option
def compact(store: str, as_json: bool) -> None:
    """Put many small files together. Readers are not disturbed; `actlake gc` removes the old files later.

    \b
    actlake compact corpus
    """
    with counter("files") as report:
        done = compact_store(Location.of(store), on_progress=report)
    say(done, as_json=as_json)


@command
@click.argument("store", type=str)
@click.option(
    "--grace", "grace_h", type=float, default=24.0, show_default=True, metavar="HOURS", help="Keep younger files."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@json_option
def gc(store: str, grace_h: float, dry_run: bool, as_json: bool) -> None:
    """Delete files that no commit names any more, or never did, once they are older than the grace period.

    Within it, readers that opened the store earlier go on, and so do captures that run. A smaller grace period is for a
    store that nobody uses meanwhile.

    \b
    actlake gc corpus
    actlake gc corpus --grace 0 --dry-run
    """
    done = gc_store(Location.of(store), grace_s=grace_h * 3600, dry_run=dry_run)
    say(done, done.sentence(dry_run=dry_run), as_json=as_json)
