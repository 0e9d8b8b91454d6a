"""`actlake sql`, `export` and `views`."""

import sys
from pathlib import Path

import click

from ..errors import QueryCancelled
from ..queries import FORMATS, Format, Limits, Store, catalog_text, write_rows
from ..store import parse_bytes
from .command import at_option, command
from .printing import bytes_text, output_stream


@command
@click.argument("store", type=str)
@click.argument("query", type=str)
@click.option("--format", "how", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option("--max-rows", type=int, default=Limits().rows, show_default=True, help="Most rows; more is an error.")
@click.option("--timeout", type=float, default=Limits().seconds, show_default=True, help="Most seconds.")
@click.option("--memory", default="2GiB", show_default=True, metavar="SIZE", help="Most memory, as 512MiB or 4GB.")
def sql(store: str, query: str, how: Format, output: Path | None, max_rows: int, timeout: float, memory: str) -> None:
    """Answer SQL over a store (DuckDB's dialect); QUERY may be - for standard input.

    It can read the store's tables and nothing else: no other file, no network, no setting. It runs in a process of its
    own, which ends at a limit, with an error after the rows so far, or on Ctrl-C.

    QUERY may also be .tables or .schema [NAME], for what there is to ask and what it means.

    \b
    actlake sql corpus .schema
    actlake sql corpus "select token, rank, logprob from tokens where generation_id = 0"
    actlake sql corpus "from saliency where share > 0.2" --format csv -o shares.csv
    actlake sql corpus "from activations where layer = 4" --format parquet -o layer4.parquet \\
        --max-rows 50000000 --timeout 600 --memory 4GB
    """
    if how in ("parquet", "arrow") and output is None and sys.stdout.isatty():
        raise click.UsageError("such a file is nothing for a terminal: give -o FILE")
    limits = Limits(parse_bytes(memory), max_rows, timeout)
    text = sys.stdin.read() if query == "-" else query
    try:
        with Store(store).read_sql(text, limits=limits) as rows, output_stream(output) as stream:
            if how == "table" and text.lstrip().startswith("."):
                stream.write(f"{catalog_text(rows.fetchall())}\n".encode())
            else:
                write_rows(rows, stream, how)
    except KeyboardInterrupt as error:
        raise QueryCancelled from error


@command
@click.argument("store", type=str)
@click.argument("source", metavar="[TABLE_OR_QUERY]", required=False)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file.")
@click.option("--format", "how", type=click.Choice(FORMATS[1:]), help="Its format.  [default: by its suffix]")
@click.option("--generation", type=int, metavar="N", help="In place of rows, a page of generation N that stands alone.")
@at_option
def export(
    store: str, source: str | None, output: Path, how: Format | None, generation: int | None, at: int | None
) -> None:
    """Write a table, a view or a query's rows to a .parquet, .csv, .jsonl or .arrow file; or a generation to an HTML page.

    Rows are written as they come, and the file appears when it is whole. It is your own query, without the limits of
    `actlake sql` and with your rights; only statements that read are taken.

    The page of a generation holds every view of it that was recorded, with its data, and needs no server and no network.

    \b
    actlake export corpus tokens -o tokens.parquet
    actlake export corpus "from saliency where share > 0.2" -o shares.csv
    actlake export corpus --generation 3 -o page.html
    """
    if (source is None) == (generation is None):
        raise click.UsageError("give a table or a query, or --generation N")
    if generation is not None and how is not None:
        raise click.UsageError("--format is of rows; a generation is written as HTML")
    try:
        if source is not None:
            Store(store, at=at).export(source, output, how)
        elif generation is not None:
            _save_page(Store(store, at=at), generation, output)
    except KeyboardInterrupt as error:
        raise QueryCancelled from error


def _save_page(store: Store, generation: int, output: Path) -> None:
    from ..ui.saved import save_page

    saved = save_page(store, generation, output)
    click.echo(f"{output}: {', '.join(saved.views)}; {bytes_text(saved.n_bytes)}")
    for note in saved.notes:
        click.echo(f"  left out: {note}", err=True)


@command
@click.argument("store", type=str)
@click.option("--relative", is_flag=True, help="Name files as seen from the store's folder, for a store that moves.")
@at_option
def views(store: str, relative: bool, at: int | None) -> None:
    """Print the SQL script that makes a store's tables, views and macros in a DuckDB of your own (1.4 or newer).

    It is of the snapshot as it is now: after later commits, print it again. It needs no actlake.

    \b
    actlake views corpus > corpus.sql && duckdb -init corpus.sql
    """
    click.echo(Store(store, at=at).views_script(relative=relative), nl=False)
