"""Captures on a device that is not the CPU, on a machine that has no other: `another_device.py FOLDER CONFIG...`.

PyTorch keeps a dispatch key for backends of others. Here its tensors are kept on the host, and its operations are the CPU's, but
one that is given tensors of both devices is refused, as an accelerator refuses it. So what is captured there has to be what
is captured on the CPU, and nothing may take a tensor of one device for one of the other. It changes the process for good.

Prints, for each configuration, a line for each way to capture.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import torch
from actlake.capture import Model, load_model
from actlake.capture.anatomy import find_anatomy
from actlake.capture.proof import check_anatomy
from conftest import save_model
from families import DECODERS, MASKED, Family
from stores import assert_counted
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
TAKES_BOTH = {
    "aten::copy_",
    "aten::_to_copy",
    "aten::_copy_from",
    "aten::index.Tensor",
    "aten::index",
    "aten::index_put_",
}
"""Operations that CUDA, too, gives tensors of the host: copies, and numbers of rows."""

GIVES_NUMBERS = {"aten::_local_scalar_dense", "aten::is_same_size", "aten::equal"}
PROMPTS: list[Any] = [
    " 1, 2, 3,",
    "One, two, and the other words",
    "a",
    {"text": "given words are here"},
    {"prompt": "x", "completion": " y z"},
]
EVERYTHING = ("embeddings", "gradients", "activations", "hidden_states", "layer_predictions")
WAYS: dict[str, dict[str, Any]] = {
    "as it is written": {"gradients": "off"},
    "drawn": {"gradients": "off", "temperature": 1.0, "top_k": 5, "top_p": 0.9},
    "some of it": {"gradients": "off", "only_generated": True, "neurons": [0, 2, 3]},
    "everything": {"record": EVERYTHING},
    "scores of a contrast": {"gradients": "scores", "gradient_target": "contrast"},
}
TABLES = (
    "tokens",
    "embeddings",
    "gradients",
    "gradient_scores",
    "activation_vectors",
    "hidden_states",
    "layer_predictions",
)


class Elsewhere(torch.Tensor):
    """A tensor of that device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __getitem__(self, at: Any) -> Any:
        parts = at if isinstance(at, tuple) else (at,)
        return super().__getitem__(tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts))


def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation of that device: the CPU's, on tensors that are all there."""
    given, name = [*tree_iter((args, kwargs))], operation._schema.name
    of_cpu = [v for v in given if isinstance(v, torch.Tensor) and not isinstance(v, Elsewhere) and v.ndim]
    if of_cpu and name not in TAKES_BOTH and any(isinstance(v, Elsewhere) for v in given):
        shapes = [tuple(tensor.shape) for tensor in of_cpu]
        raise RuntimeError(f"{operation} was given tensors of two devices; those of the CPU have shapes {shapes}")
    on_cpu_args, on_cpu_kwargs = tree_map(_on_cpu, (args, kwargs))
    result = operation(*on_cpu_args, **on_cpu_kwargs)
    arguments = operation._schema.arguments
    if arguments and arguments[0].alias_info is not None and arguments[0].alias_info.is_write:
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    to_cpu = any(isinstance(v, torch.device) and v.type != NAME for v in given)
    return result if to_cpu or name in GIVES_NUMBERS else tree_map(_elsewhere, result)


def begin() -> None:
    """Have the device in this process."""
    _setup_privateuseone_for_python_backend(NAME)
    every = torch.library.Library("_", "IMPL")
    every.fallback(run, dispatch_key="PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for overload in torch.ops.aten.arange.overloads():  # theirs is empty, and resized later
        if overload in ("default", "start", "start_step"):
            aten.impl(f"arange.{overload}".removesuffix(".default"), _arange(overload), "PrivateUse1")
    _KEPT.extend([every, aten])
    weight = torch.ones(2).to(NAME).requires_grad_()
    weight.sum().backward()  # the autograd engine counts devices once


def move(network: torch.nn.Module) -> torch.nn.Module:
    """The network there; from now on `torch.tensor` can make tensors there."""
    torch.tensor = _tensor  # type: ignore[assignment]  # PyTorch's own does not know tensors of such classes
    return network.to(NAME)


_KEPT: list[object] = []
_own_tensor: Callable[..., torch.Tensor] = torch.tensor


def _tensor(data: Any, *, device: Any = None, **how: Any) -> torch.Tensor:
    made = _own_tensor(data, **how)
    return made if device is None else made.to(device)


def _arange(overload: str) -> Callable[..., torch.Tensor]:
    operation = getattr(torch.ops.aten.arange, overload)
    return lambda *args, device=None, pin_memory=None, **how: Elsewhere(operation(*args, device="cpu", **how))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, Elsewhere) else value


def _elsewhere(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value


def main(folder: Path, configs: list[str]) -> None:
    begin()
    try:
        _ = torch.ones(2).to(NAME) + torch.ones(2)
    except RuntimeError as error:
        print(error)
    known = {family.config: family for family in (*DECODERS, *MASKED)}
    families = [known[config] for config in configs]
    models = [_saved_and_loaded(folder / f"model-{number}", family) for number, family in enumerate(families)]
    for here, again in models:
        there = replace(again, network=move(again.network))
        assert str(there.device) == f"{NAME}:0"
        found = find_anatomy(there.network, there.name, is_causal=here.is_causal)
        assert found == here.anatomy, found
        check_anatomy(there.network, found, there.name)
        kind = here.network.config.model_type
        for way, options in WAYS.items():
            if here.is_causal or not options.get("only_generated"):
                differs = _compared(folder / kind / way, {"here": here, "there": there}, options)
                print(f"{kind}, {way}: at most {differs:.1e}", flush=True)
        if here.is_causal:
            store = actlake.open(folder / kind / "everything" / "here")
            differs = _asked(store.generation(0), here, there)
            print(f"{kind}, asked of what is stored: at most {differs:.1e}", flush=True)


def _asked(generation: actlake.Generation, here: Model, there: Model) -> float:
    """What a model is asked about a generation that is stored; gives the greatest difference."""
    hidden, targets = generation.hidden_states([0])[:, 0], generation.tokens["token_id"].tolist()
    answers = []
    for model in (here, there):
        said = model.lens_predictions(0, hidden, targets)
        ranks, probabilities = model.lens_ranks(0, hidden, [5, 7])
        matrix = generation.integrated_gradients(model, n_steps=5)
        whole, streamed = (
            generation.factors(2, device=str(model.device)),
            generation.factors(2, device=str(model.device), in_memory_bytes=1),
        )
        parts = [each for of in (whole, streamed) for each in (of.tokens, of.components)]
        answers.append([said.rank, said.probability, said.top_token_ids, ranks, probabilities, matrix.scores, *parts])
    differences = []
    for one, other in zip(*answers, strict=True):
        differences.append(float(np.nanmax(np.abs(one - other)) / (np.nanmax(np.abs(one)) or 1)))
    assert max(differences) < 1e-4, differences
    return max(differences)


def _saved_and_loaded(folder: Path, family: Family) -> tuple[Model, Model]:
    kind = "AutoModelForMaskedLM" if family in MASKED else "AutoModelForCausalLM"
    saved = save_model(folder, family.config, 4.0, kind=kind, **family.all_sizes)
    return load_model(str(saved), device="cpu"), load_model(str(saved), device="cpu")


def _compared(folder: Path, models: dict[str, Model], options: dict[str, Any]) -> float:
    """Capture with both models; gives the greatest difference, over the greatest value of its table."""
    stores = []
    for name, model in models.items():
        prompts = PROMPTS if model.is_causal else [" 1, <mask>, 3", "One, two", "<mask>"]
        run = actlake.capture(folder / name, model, prompts, max_new_tokens=4, precision="float32", **options)
        assert (run.n_captured, run.skipped) == (len(prompts), ()), run
        stores.append(actlake.open(folder / name))
    assert_counted(folder / "there")  # what was measured there, against what its files have
    (here,), (there,) = (store.runs()["generation_config"].map(json.loads) for store in stores)
    assert here["records_steps"] == there["records_steps"]
    greatest = 0.0
    for table in TABLES:
        one, other = (store.sql(f"from {table} order by all").df() for store in stores)
        assert len(one) == len(other), table
        for column in one.columns:
            values, expected = (_numbers(frame[column]) for frame in (other, one))
            if values is None or expected is None:
                assert one[column].map(str).equals(other[column].map(str)), (table, column)
            elif len(expected):
                assert values.shape == expected.shape, (table, column)
                greatest = max(greatest, float(np.abs(values - expected).max() / (np.abs(expected).max() or 1)))
    assert greatest < 1e-4, greatest
    return greatest


def _numbers(column: Any) -> np.ndarray | None:
    """All floats of a column, one after the other; None where it has none."""
    values = [np.asarray(value) for value in column.dropna()]
    flat = np.concatenate([value.reshape(-1) for value in values]) if values else np.empty(0)
    return flat if flat.dtype.kind == "f" else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
