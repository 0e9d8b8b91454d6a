"""Which run a link to a neuron names: where a store has several models it says whose, for a neuron of another is another neuron.

A run in a neuron's address narrows its statistics to that run, so where all are of one model links name none.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..queries import Store


@dataclass(frozen=True)
class NeuronRuns:
    """The runs that recorded activations, each with what people call it, and whether they are of several models."""

    names: dict[int, str]
    are_of_several_models: bool


NEURON_LINK = "neuron?layer={layer}&neuron={neuron}"

_known: WeakKeyDictionary[Store, tuple[int, NeuronRuns]] = WeakKeyDictionary()


def neuron_runs(store: Store) -> NeuronRuns:
    """Those of the store as it is seen now; worked out once for each commit."""
    version = store.snapshot.version
    if (known := _known.get(store)) and known[0] == version:
        return known[1]
    rows = store.runs()
    rows = rows[["activations" in recorded for recorded in rows["recorded"]]]
    columns = (rows[name].tolist() for name in ("run_id", "name", "model"))
    names = {
        int(run_id): f"run {run_id} of {model}{f': {name}' if name and name != model else ''}"
        for run_id, name, model in zip(*columns, strict=True)
    }
    found = NeuronRuns(names, rows["model_hash"].nunique() > 1)
    _known[store] = version, found
    return found


def run_to_name(store: Store, run_id: int | None) -> int | None:
    """The run that links to neurons of `run_id` name: that one, or none where the store's neurons are of one model."""
    return run_id if neuron_runs(store).are_of_several_models else None


def neuron_link(store: Store, run_id: int | None) -> str:
    """The address of the page of a neuron of that run, with {layer} and {neuron} in it."""
    run = run_to_name(store, run_id)
    return NEURON_LINK if run is None else f"{NEURON_LINK}&run={run}"
