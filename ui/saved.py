"""A generation as one page that stands alone: every view of it that was recorded, with its data, for a folder or a mail."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..errors import ActlakeError, number_ranges
from ..queries import Generation, Store, whole_file
from .document import Shown, document
from .maps import activations_payload, layers_payload
from .strip import factors_payload, generation_payload, saliency_payload

ROOM = 6_000_000
"""Most bytes of one view's matrix; what is left out is said in the view."""

K = 5
MOST_NEURONS = 400


@dataclass(frozen=True)
class Saved:
    """A page that was written: its views by name, its size, and what was left out of which view."""

    views: list[str]
    n_bytes: int
    notes: list[str]


def save_page(store: Store, generation_id: int, path: Path) -> Saved:
    """Write the page of a generation. The file appears when it is whole.

    Raises GenerationNotFound, and what reading the store raises.
    """
    generation = store.generation(generation_id)
    shown = shown_of(generation)
    title = f"Generation {generation_id}"
    page = document(f"{title} · actlake", shown, before=_heading(title, generation), after=_texts(generation))
    written = page.encode("utf-8")
    with whole_file(path) as file:
        file.write(written)
    notes = [f"{one.name}: {one.payload['note']}" for one in shown if one.payload.get("note")]
    return Saved([one.name for one in shown], len(written), notes)


def shown_of(generation: Generation) -> list[Shown]:
    """The views of a generation that can be drawn from what was recorded; its tokens alone where none can."""
    recorded = generation.recorded
    views: list[Shown] = []

    def add(name: str, payload: Callable[[], dict[str, Any]]) -> None:
        try:
            views.append(Shown(name, payload()))
        except ActlakeError:
            return  # as factors of a single token: there is nothing to draw

    if recorded & {"gradients", "gradient_scores"}:
        add("Saliency", lambda: saliency_payload(generation, generation.saliency(), room=ROOM))
    if "activations" in recorded and generation.layers:
        k = max(1, min(K, len(generation.layer_positions)))
        middle = generation.layers[len(generation.layers) // 2]
        add("Factors", lambda: factors_payload(generation, generation.factors(k)))
        add(
            "Activations",
            lambda: activations_payload(
                generation, generation.heat_map(middle, "agglomerative", most=MOST_NEURONS), room=ROOM
            ),
        )
    if "layer_predictions" in recorded:
        add("Layers", lambda: layers_payload(generation, generation.layer_predictions(), room=ROOM))
    return views or [Shown("Tokens", generation_payload(generation))]


def _heading(title: str, generation: Generation) -> Markup:
    facts = {
        "model": generation.model,
        "run": generation.run_id,
        "tokens": f"{generation.n_prompt_tokens} prompt + {generation.n_tokens - generation.n_prompt_tokens} generated",
        "recorded": ", ".join(sorted(generation.recorded)) or "tokens only",
        "layers": number_ranges(generation.layers) or "none",
    }
    return Markup('<div class="saved"><h1>{}</h1><dl class="facts">{}</dl></div>').format(
        title, Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items())
    )


def _texts(generation: Generation) -> Markup:
    metadata = json.dumps(generation.metadata, ensure_ascii=False, indent=2)
    texts = {"prompt": generation.prompt, "completion": generation.completion, "metadata": metadata}
    return Markup('<details class="texts"><summary>Text and metadata</summary>{}</details>').format(
        Markup("").join(Markup("<h2>{}</h2><pre>{}</pre>").format(*text) for text in texts.items())
    )
