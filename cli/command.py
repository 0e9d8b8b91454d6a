"""What every command is made of: errors that are one line, options that several have, SIGTERM that ends as Ctrl-C does."""

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..errors import ActlakeError, InvalidOption

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")
at_option = click.option("--at", type=int, metavar="COMMIT", help="As the store was after that commit.")
port_option = click.option("--port", type=click.IntRange(0, 65535), default=5006, show_default=True, help="Port.")


_LATER_S = 0.01
"""Seconds until a signal that was ignored comes again."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: what handles Ctrl-C handles it too."""


def command(
    function: Callable[..., None], *, left: str = "what was committed is kept, and the same command goes on from there"
) -> click.Command:
    """A command whose errors are one line on stderr, and a traceback only with `--debug`. `left` says what there is after it was
    interrupted."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            with _signals_that_last():
                function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except _Terminated:
            _fail(f"terminated; {left}", debug=debug, code=143)
        except KeyboardInterrupt:
            _fail(f"interrupted; {left}", debug=debug)
        except InvalidOption as error:
            _fail(str(error), debug=debug, code=2)
        except ActlakeError as error:
            _fail(str(error), debug=debug)
        except Exception as error:
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
            _fail(f"{type(error).__name__}: {said} (--debug shows where)", debug=debug)

    option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return click.command()(option(run))


@contextmanager
def terminable() -> Iterator[None]:
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


@contextmanager
def _signals_that_last() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come while something is cleared away, where Python ignores every exception, come again."""
    before = sys.unraisablehook

    def ignored(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            number = signal.SIGTERM if issubclass(what.exc_type, _Terminated) else signal.SIGINT
            again = threading.Timer(_LATER_S, os.kill, (os.getpid(), number))  # at once, it would be ignored here too
            again.daemon = True
            again.start()
        else:
            before(what)

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        sys.unraisablehook = before


def _fail(message: str, *, debug: bool, code: int = 1) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"actlake: {message}", err=True)
    raise click.exceptions.Exit(code)
