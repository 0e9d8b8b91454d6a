"""The Python and the SQL that give the numbers of a view again, for "copy as".

What is written runs as it stands: the Python in a fresh interpreter, the SQL in `actlake sql` or `store.sql`.
"""

from typing import Any

from ..queries import METHODS, Generation, Store
from .address import GenerationAddress
from .chosen import clusters_of, has_to_be_computed, k_of, layer_of
from .opening import opening


def python_of(store: Store, generation: Generation, address: GenerationAddress, model: str | None = None) -> str:
    """Python whose last lines give what the view shows; `model` is the one that the app asks, by the name that loads it here
    (the generation's own, unless told)."""
    opened = f"{opening(store)}gen = store.generation({address.id})\n"
    if address.view == "saliency":
        return f"{opened}shares = gen.saliency({_arguments(address, method='grad_x_input', by='token')})\n"
    if address.view == "factors":
        said: dict[str, Any] = {
            "method": address.factor_method,
            "positions": address.positions,
            "negatives": address.negatives,
            "scale_layers": address.scale,
            "seed": address.seed,
            "reruns": address.reruns,
        }
        defaults = {
            "method": "nmf",
            "positions": "all",
            "negatives": "auto",
            "scale_layers": False,
            "seed": 0,
            "reruns": 0,
        }
        named = [f"{name}={value!r}" for name, value in said.items() if value != defaults[name]]
        layers = "" if address.layers is None else f"layers={list(address.layers)}"
        given = filter(None, [str(k_of(generation, address)), layers, *named])
        return f"{opened}factors = gen.factors({', '.join(given)})\n"
    if address.view == "activations":
        named = [f"most={address.most}"]
        if address.order != "neuron":
            named = [f"order={address.order!r}", f"n_clusters={clusters_of(generation, address)}", *named]
        return f"{opened}heat_map = gen.heat_map({', '.join([str(layer_of(generation, address)), *named])})\n"
    computed = has_to_be_computed(generation)
    python = opened
    if computed or address.watch:
        python += f"model = actlake.capture.load_model({f'{model!r}' if model else 'gen.model'})\n"
    python += f"predictions = gen.layer_predictions({'model' if computed else ''})\n"
    if address.watch:
        position = "" if address.cell is None else f", {address.cell[1]}"
        python += f"watched = gen.watched(model, {list(address.watch)!r}{position})\n"
    return python


def sql_of(generation: Generation, address: GenerationAddress) -> str:
    """SQL that gives what the view shows, or "" where SQL cannot: factors that are not saved, words and lines, and what the model
    says now."""
    where = f"where generation_id = {address.id}"
    if address.view == "saliency" and address.by == "token" and address.method in METHODS:
        return (
            f"select output_position, input_position, share\nfrom saliency_by('{address.method}')\n{where}\n"
            "order by output_position, input_position\n"
        )
    if address.view == "activations":
        layer = layer_of(generation, address)
        return (
            f"select position, neuron, activation\nfrom by_token.activations\n{where} and layer = {layer}\n"
            "order by position, neuron\n"
        )
    if address.view == "layers" and not has_to_be_computed(generation):
        return (
            "select layer, position, rank, probability, top_tokens, top_probabilities\nfrom layer_predictions\n"
            f"{where}\norder by layer, position\n"
        )
    return ""


def _arguments(address: GenerationAddress, **defaults: Any) -> str:
    said = {name: getattr(address, name) for name in defaults}
    return ", ".join(f"{name}={value!r}" for name, value in said.items() if value != defaults[name])
