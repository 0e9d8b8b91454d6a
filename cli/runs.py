"""`actlake info`: what a store holds, and how a run was made."""

import dataclasses
import json

import click

from ..queries import Provenance, Store, shown, table_text
from .command import at_option, command, json_option
from .record import capture


@command
@click.argument("store", type=str)
@click.option("--run", "run_id", type=int, metavar="N", help="All of one run, and the command that repeats it.")
@click.option("--prompts", is_flag=True, help="With --run: print its prompts, as JSON lines that a capture reads.")
@at_option
@json_option
def info(store: str, run_id: int | None, prompts: bool, at: int | None, as_json: bool) -> None:
    """Say what a store holds: runs, generations, files and bytes; or how one run was made.

    \b
    actlake info corpus
    actlake info corpus --run 0
    actlake info corpus --run 0 --prompts > prompts.jsonl
    """
    opened = Store(store, at=at)
    if prompts and run_id is None:
        raise click.UsageError("--prompts are of a run: give --run")
    if run_id is not None:
        if prompts:
            for record in opened.prompts(run_id):
                click.echo(json.dumps(record))
        else:
            print_run(dataclasses.replace(opened.run(run_id), uri=store), as_json=as_json)
        return
    query = """
        select run_id, name, model, architecture, n_layers, d_model, d_ff, precision, recorded, status,
            count(generation_id) as generations, coalesce(sum(n_tokens), 0)::bigint as tokens
        from runs left join generations using (run_id)
        group by all order by run_id
    """
    with opened.reading(query) as runs:
        names, found = runs.columns, runs.fetchall()
    tables = opened.size()
    if as_json:
        rows = [dict(zip(names, row, strict=True)) for row in found]
        tables_json = tables.to_dict("records")
        click.echo(
            json.dumps({"store": store, "version": opened.snapshot.version, "runs": rows, "tables": tables_json})
        )
        return
    click.echo(f"{store}: commit {opened.snapshot.version}\n")
    click.echo(table_text(names, [[*row[:8], ", ".join(row[8]), *row[9:]] for row in found]))
    click.echo()
    click.echo(table_text(list(tables.columns), tables.to_numpy().tolist()))


def print_run(run: Provenance, *, as_json: bool) -> None:
    again = run.command({option.name or "": option.default for option in capture.params})
    if as_json:
        said = dataclasses.asdict(run) | {"row": {**run.row, "created_at": run.row["created_at"].isoformat()}}
        click.echo(json.dumps(said | {"command": again, "notes": run.notes()}))
        return
    facts = run.facts()
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name:{width}}  {shown(value)}")
    click.echo("\nto repeat it:\n")
    click.echo(f"{again}\n")
    for note in run.notes():
        click.echo(f"- {shown(note)}")
