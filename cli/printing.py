"""How commands print: reports, progress on stderr, a file that appears when it is whole."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from ..queries import whole_file


def say(done: Any, sentence: str | None = None, *, as_json: bool) -> None:
    """Print a report, as JSON or for people."""
    click.echo(json.dumps(dataclasses.asdict(done)) if as_json else sentence or done.sentence())


@contextmanager
def counter(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told how many are done and how many there are."""
    from tqdm import tqdm

    with tqdm(
        unit=unit, disable=None, leave=False, bar_format="{percentage:3.0f}% |{bar:30}| {n_fmt} of {total_fmt} {unit}"
    ) as bar:

        def report(n_done: int, n_total: int) -> None:
            bar.total, bar.n = n_total, n_done
            bar.refresh()

        yield report


@contextmanager
def output_stream(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name when it is whole."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with whole_file(path) as file:
        yield file


def bytes_text(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
