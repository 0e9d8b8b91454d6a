"""The command line: each command parses, makes one call of the library and prints.

Results go to stdout, progress and errors to stderr. Exit codes: 0, 1 (it failed: one line says why), 2 (wrong usage),
143 (SIGTERM ended a capture).
torch and transformers are imported by the commands that need a model, no others.
"""

import signal

import click

from .analyses import neuron, saliency
from .ask import export, sql, views
from .factors import factors
from .keep import compact, gc, index, verify
from .look import demo, serve
from .record import capture
from .runs import info

COMMANDS = (capture, info, sql, export, views, saliency, factors, neuron, verify, index, compact, gc, serve, demo)
"""Every command, in the order of the docs."""


def main() -> None:
    """The `actlake` command."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `actlake sql … | head` ends quietly
    cli(prog_name="actlake")


@click.group(commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="actlake")
def cli() -> None:
    """A database of what happens inside a transformer language model.

    \b
    actlake demo                                   the whole way, on a small built-in model
    actlake capture STORE --model M prompts.txt    record a model's generations
    actlake sql STORE "from generations"           ask
    actlake serve STORE                            look, in a browser
    """
