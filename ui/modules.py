"""The drawings' JavaScript: its parts in `static/`, joined to one ES module that stands alone.

A part is a plain ES module that imports others by `import {name} from "./part.js";` on one line. Joined, all of them share one
scope, so a top-level name is said once in all parts. One module is what the app, a notebook and a page saved to disk can all
carry inside themselves: none of them has to load a second file.
"""

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"

VIEWS: dict[str, str] = {
    "saliency": "saliency",
    "factors": "factors",
    "activations": "activations",
    "layers": "layers",
    "neuron": "neuron",
    "factorization": "factorization",
}
"""What draws each kind of payload: the kind, and the function (of the part `static/KIND.js`) that draws it."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)


@cache
def drawing_module() -> str:
    """The whole module: `draw(element, data, options)` for any page, and `render` for Panel."""
    views = ", ".join(f"{kind}: {function}" for kind, function in VIEWS.items())
    return f"{joined(*VIEWS, 'draw')}\nconst VIEWS = {{{views}}};\n"


def joined(*names: str) -> str:
    """The source of these parts and of all that they import, each once and after what it imports."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        source = (STATIC / f"{name}.js").read_text(encoding="utf-8")
        for imported in _IMPORT.findall(source):
            add(imported)
        done[name] = _IMPORT.sub("", source)

    for name in names:
        add(name)
    return "\n".join(done.values())


@cache
def drawing_css() -> str:
    """The stylesheet of the drawings."""
    return "".join((STATIC / f"{name}.css").read_text(encoding="utf-8") for name in ("strip", "examples"))
