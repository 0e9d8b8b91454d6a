"""The Python and the SQL that give the numbers of a view again, for "copy as".

What is written runs as it stands: the Python in a fresh interpreter, the SQL in `actlake sql` or `store.sql`.
"""

import dataclasses
from typing import Any

from ..queries import METHODS
from .address import GenerationAddress


def python_of(uri: str, address: GenerationAddress, k: int, layer: int) -> str:
    """Python whose last line gives what the view shows; `k` and `layer` are what the page chose where the address says none."""
    opened = f"import actlake\n\nstore = actlake.open({uri!r})\ngen = store.generation({address.id})\n"
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
        return f"{opened}factors = gen.factors({', '.join(filter(None, [str(k), layers, *named]))})\n"
    if address.view == "activations":
        said = {"order": address.order, "n_clusters": address.clusters, "most": address.most}
        defaults = {field.name: field.default for field in dataclasses.fields(GenerationAddress)}
        defaults |= {"n_clusters": defaults["clusters"]}
        named = [f"{name}={value!r}" for name, value in said.items() if name == "most" or value != defaults[name]]
        return f"{opened}heat_map = gen.heat_map({', '.join([str(layer), *named])})\n"
    python = f"{opened}predictions = gen.layer_predictions()\n"
    if address.watch:
        position = "" if address.cell is None else f", {address.cell[1]}"
        python += "\nfrom actlake.capture import load_model\n\n"
        python += f"watched = gen.watched(load_model(gen.model), {list(address.watch)!r}{position})\n"
    return python


def sql_of(address: GenerationAddress, layer: int) -> str:
    """SQL that gives what the view shows, or "" where SQL cannot (factors that are not saved, words and lines)."""
    where = f"where generation_id = {address.id}"
    if address.view == "saliency" and address.by == "token" and address.method in METHODS:
        return (
            f"select output_position, input_position, share\nfrom saliency_by('{address.method}')\n{where}\n"
            "order by output_position, input_position\n"
        )
    if address.view == "activations":
        return (
            f"select position, neuron, activation\nfrom by_token.activations\n{where} and layer = {layer}\n"
            "order by position, neuron\n"
        )
    if address.view == "layers":
        return (
            "select layer, position, rank, probability, top_tokens, top_probabilities\nfrom layer_predictions\n"
            f"{where}\norder by layer, position\n"
        )
    return ""


def _arguments(address: GenerationAddress, **defaults: Any) -> str:
    said = {name: getattr(address, name) for name in defaults}
    return ", ".join(f"{name}={value!r}" for name, value in said.items() if value != defaults[name])
