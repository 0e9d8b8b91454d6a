"""`actlake capture`."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import number_ranges
from ..queries import table_text
from ..store import DEFAULT_RECORDS, GRADIENT_TARGETS, PRECISIONS, RECORDS, Location, Log, parse_ranges
from .command import command, json_option, terminable
from .printing import bytes_text

if TYPE_CHECKING:
    from ..capture import CaptureOptions, Model, Plan, Progress, Run

MOST_SKIPPED_LINES = 20


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
@terminable()
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
    from ..capture import CaptureOptions, capture_plan, load_model, make_plan, prompts_from, read_prompts

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
        _print_budget(location, loaded, plan, chosen, as_json=as_json, dry_run=dry_run)
    if dry_run:
        return
    with captured_bar() as report:
        run = capture_plan(location, loaded, plan, chosen, report)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(run)))
    else:
        click.echo(run.sentence())
    if run.skipped:
        _say_skipped(run)
        raise click.exceptions.Exit(1)


def _say_skipped(run: "Run") -> None:
    for skipped in run.skipped[:MOST_SKIPPED_LINES]:
        click.echo(f"  skipped {skipped.where}: {skipped.reason}", err=True)
    if (more := len(run.skipped) - MOST_SKIPPED_LINES) > 0:
        click.echo(f"  and {more} more (--json lists them all)", err=True)
    number = f"{len(run.skipped)} prompt{'s were' if len(run.skipped) > 1 else ' was'} skipped"
    click.echo(f"actlake: {number} and not captured; the same command tries again", err=True)


def _print_budget(
    location: Location, model: "Model", plan: "Plan", options: "CaptureOptions", *, as_json: bool, dry_run: bool
) -> None:
    """Say how many bytes a run may write, a token and in all, of how many there are: on stderr, or of a run that is not to be
    done on stdout, and then whether it would be refused."""
    from ..capture import byte_budget, refusal

    budget, free = byte_budget(model, plan, options), location.free_bytes()
    n_tokens = sum(work.max_tokens for work in plan.works)
    refused, err = (refusal(location, model, plan, options), False) if dry_run else (None, True)
    if as_json:
        said = {"max_bytes": options.most_bytes, "free_bytes": free, "refused": refused}
        click.echo(json.dumps({"generations": len(plan.works), "max_tokens": n_tokens, "bytes": budget, **said}))
        return
    rows = [
        [table, bytes_text(size), bytes_text(size / n_tokens)]
        for table, size in (budget | {"all": sum(budget.values())}).items()
    ]
    kept = [f"layers {number_ranges(plan.layers) or 'none'}"]
    kept += [] if plan.neurons is None else [f"neurons {number_ranges(plan.neurons)}"]
    kept += [f"every {plan.positions.every} positions"] if plan.positions.every > 1 else []
    kept += ["only generated positions"] if plan.positions.only_generated else []
    room = [f"{bytes_text(free)} are free"] if free is not None else []
    room += [] if options.most_bytes is None else [f"{bytes_text(options.most_bytes)} allowed"]
    click.echo(f"{len(plan.works)} generations, at most {n_tokens} tokens; {', '.join(kept)}", err=err)
    click.echo(table_text(["table", "at most about", "a token"], rows), err=err)
    if room:
        click.echo(", ".join(room), err=err)
    if refused:
        click.echo(f"it would be refused: {refused}", err=err)


@contextmanager
def captured_bar() -> Iterator[Callable[["Progress"], None]]:
    from tqdm import tqdm

    with tqdm(unit="gen", disable=None, leave=False, bar_format="{percentage:3.0f}% |{bar:30}| {desc}") as bar:

        def report(progress: "Progress") -> None:
            bar.total, bar.n = progress.n_total, progress.n_done
            rate = progress.n_tokens / progress.seconds if progress.seconds else 0
            bar.set_description_str(
                f"{progress.n_done} of {progress.n_total} generations, {rate:.0f} tokens/s, {bytes_text(progress.n_bytes)}"
            )

        yield report
