"""What a notebook shows of a generation, saliency, factors, a heat map, a neuron or layer predictions: the app's drawing, framed.

The frame holds its data and all that draws them, so it needs no server and no network, works in Jupyter, in VS Code and in a
notebook that was exported as HTML, and can reach nothing of the page around it (a sandbox of its own origin).
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from ..errors import ActlakeError
from ..queries import Factors, Generation, HeatMap, Neuron, SaliencyMatrix, View
from .document import Shown, document
from .factor_cards import corpus_factors_payload
from .maps import activations_payload, layers_payload
from .neuron_drawing import neuron_payload
from .strip import factors_payload, generation_payload, saliency_payload

ROOM = 1_500_000
"""Most bytes of a matrix that a notebook keeps for one drawing; what is left out is said in the drawing."""

MOST_CHARACTERS = 8_000_000
"""Most characters of a whole drawing; what comes to more is shown as text."""

LEAST_HEIGHT, MOST_HEIGHT = 160, 620


def html_of(thing: Any) -> str | None:
    """The HTML that a notebook shows of a thing; None if there is no drawing of it, or none that is small enough."""
    payload = payload_of_thing(thing)
    if payload is None:
        return None
    source = document("actlake", [Shown("", payload, thing.state if isinstance(thing, View) else {})])
    return frame(source, _height(payload)) if len(source) <= MOST_CHARACTERS else None


def payload_of_thing(thing: Any) -> dict[str, Any] | None:
    """What is drawn of a result, no larger than a notebook should keep; None if nothing draws it."""
    return next((made(thing) for kind, made in _PAYLOADS.items() if isinstance(thing, kind)), None)


def frame(source: str, height: int) -> str:
    """A page in a frame that can run its script, save files and nothing else; it becomes as high as the page says it is."""
    name = f"actlake-{uuid.uuid4().hex}"
    return str(
        Markup(
            '<iframe id="{name}" title="actlake drawing" sandbox="allow-scripts allow-downloads" '
            'style="width:100%;height:{height}px;border:0;display:block" srcdoc="{source}"></iframe>'
            "<script>{script}</script>"
        ).format(name=name, height=height, source=source, script=Markup(_RESIZE.replace("NAME", name)))
    )


_RESIZE = """
window.addEventListener("message", (event) => {
  const frame = document.getElementById("NAME"), height = event.data && event.data.actlakeHeight;
  if (frame && event.source === frame.contentWindow && Number.isFinite(height))
    frame.style.height = Math.max(60, Math.min(4000, height)) + "px";
});
"""


def _height(payload: Mapping[str, Any]) -> int:
    """About how high a drawing is, for where a frame cannot say it itself."""
    lines = len(payload.get("tokens", {}).get("text", ())) // 16 + 1
    cards = len(payload.get("factorization", {}).get("cards", ()))
    extra = {
        "neuron": 500,
        "factorization": 260 * cards,
        "factors": 40 * payload.get("factors", {}).get("k", 0),
        "layers": 700,
        "activations": 500,
    }
    return max(LEAST_HEIGHT, min(MOST_HEIGHT, 200 + max(44 * lines, extra.get(payload["kind"], 0))))


def _of_saliency(saliency: SaliencyMatrix) -> dict[str, Any] | None:
    return None if saliency.generation is None else saliency_payload(saliency.generation, saliency, room=ROOM)


def _of_factors(factors: Factors) -> dict[str, Any] | None:
    if factors.generation is not None:
        return factors_payload(factors.generation, factors)
    return None if factors.store is None else corpus_factors_payload(factors)


def _of_heat_map(heat_map: HeatMap) -> dict[str, Any] | None:
    return None if heat_map.generation is None else activations_payload(heat_map.generation, heat_map, room=ROOM)


def _of_view(view: View) -> dict[str, Any] | None:
    if view.name == "layers":
        return layers_payload(view.generation, view.result, view.watched, view.position, room=ROOM)
    return payload_of_thing(view.result)


def _of_generation(generation: Generation) -> dict[str, Any] | None:
    try:
        return _of_saliency(generation.saliency())
    except ActlakeError:  # nothing was recorded that explains it: its tokens alone then
        return generation_payload(generation)


_PAYLOADS: dict[type, Callable[[Any], dict[str, Any] | None]] = {
    SaliencyMatrix: _of_saliency,
    Factors: _of_factors,
    HeatMap: _of_heat_map,
    View: _of_view,
    Generation: _of_generation,
    Neuron: lambda neuron: neuron_payload(neuron, base=None),
}
