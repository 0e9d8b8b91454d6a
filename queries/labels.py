"""Which thing of a store a label names, once it is sure that it is there."""

from ..errors import FactorizationNotFound, InvalidOption, RunNotFound, UnknownLayer, UnknownNeuron, check_text
from ..store import Reader, Snapshot, shapes

MOST_CHARACTERS = 500


def labelled(
    label: str,
    snapshot: Snapshot,
    reader: Reader,
    *,
    factorization_id: int | None,
    factor: int | None,
    run_id: int | None,
    layer: int | None,
    neuron: int | None,
) -> dict[str, int | None]:
    """The columns that name a factor (factorization_id, factor) or a neuron (layer, neuron, maybe run_id).

    Raises InvalidOption, FactorizationNotFound, RunNotFound, UnknownLayer, UnknownNeuron.
    """
    if len(label) > MOST_CHARACTERS:
        raise InvalidOption("label", f"{label[:20]}…", f"{len(label)} characters; give {MOST_CHARACTERS} or fewer")
    check_text("label", label)
    of_factor, of_neuron = (factorization_id, factor), (layer, neuron)
    if None not in of_factor and (run_id, layer, neuron) == (None, None, None):
        _check_factor(snapshot, reader, *of_factor)  # type: ignore[arg-type]
    elif None not in of_neuron and of_factor == (None, None):
        _check_neuron(snapshot, reader, run_id, *of_neuron)  # type: ignore[arg-type]
    else:
        raise InvalidOption("label", label, "name a factor (factorization_id, factor) or a neuron (layer, neuron)")
    return {
        "factorization_id": factorization_id,
        "factor": factor,
        "run_id": run_id,
        "layer": layer,
        "neuron": neuron,
    }


def _check_factor(snapshot: Snapshot, reader: Reader, factorization_id: int, factor: int) -> None:
    rows = reader.rows(snapshot, "factorizations", columns=["factorization_id", "k"]).to_pylist()
    known = {row["factorization_id"]: row["k"] for row in rows}
    if factorization_id not in known:
        raise FactorizationNotFound(factorization_id, sorted(known))
    if not 0 <= factor < known[factorization_id]:
        raise InvalidOption("factor", factor, f"there are factors 0 to {known[factorization_id] - 1}")


def _check_neuron(snapshot: Snapshot, reader: Reader, run_id: int | None, layer: int, neuron: int) -> None:
    of_runs = shapes(snapshot, reader)
    if run_id is not None and run_id not in of_runs:
        raise RunNotFound(run_id, len(snapshot.reservations))
    asked = list(of_runs.values()) if run_id is None else [of_runs[run_id]]
    layers = sorted({number for shape in asked for number in shape.layers})
    if layer not in layers:
        raise UnknownLayer([layer], layers)
    d_ff = max(shape.d_ff for shape in asked)
    if not 0 <= neuron < d_ff:
        raise UnknownNeuron([neuron], d_ff)
