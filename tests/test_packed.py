"""FFNNs are given a batch's real positions alone, where that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import torch
from actlake.capture import Model
from actlake.capture.generate import Sampling, continuations
from actlake.capture.replay import replay
from actlake.capture.steps import write_and_record
from actlake.capture.stream import replaced
from actlake.capture.wanted import Wanted

TEXTS = [[5, 6, 7, 8, 9, 10, 11], [40], [90, 91, 92]]
N_REAL, N_PADDED = 11, 21


@contextmanager
def ffn_positions(model: Model) -> Iterator[list[int]]:
    """How many positions each run of the first FFNN is given."""
    seen: list[int] = []
    module = model.network.get_submodule(model.anatomy.ffn_outputs[0])
    handle = module.register_forward_hook(lambda module, args, output: seen.append(args[0][..., 0].numel()))
    try:
        yield seen
    finally:
        handle.remove()


def test_no_padding_enters_an_ffn_when_texts_are_written_or_given(toy_model: Model) -> None:
    free = replace(toy_model, end_ids=())
    assert free.ffns_pack
    assert free.logits_are_unembedded
    with ffn_positions(free) as seen:
        continuations(free, TEXTS, 3, Sampling(), range(3))
    assert seen == [N_REAL, 3, 3]
    with ffn_positions(free) as seen:
        write_and_record(free, TEXTS, 3, Sampling(), range(3), Wanted([0]))
    assert seen == [N_REAL, 3, 3, 3]
    with ffn_positions(free) as seen:
        replay(free, TEXTS, [7, 1, 3], Wanted([0]))
    assert seen == [N_REAL]


def test_what_is_recorded_of_packed_texts_is_what_is_recorded_of_each_alone(any_model: Model) -> None:
    layers = range(any_model.anatomy.n_layers)
    together = replay(any_model, TEXTS, [7, 1, 3], Wanted(layers))()
    for text, one in zip(TEXTS, together, strict=True):
        (alone,) = replay(any_model, [text], [len(text)], Wanted(layers))()
        for layer in layers:
            np.testing.assert_allclose(one.activations[layer], alone.activations[layer], atol=1e-5)
        np.testing.assert_allclose(one.embeddings, alone.embeddings)
        np.testing.assert_allclose(one.logprob, alone.logprob, atol=1e-5)


def test_an_ffn_that_looks_at_other_positions_is_given_the_whole_batch(toy_model: Model) -> None:
    mlp = toy_model.network.model.layers[1].mlp

    def shifted(hidden: torch.Tensor) -> torch.Tensor:
        before = torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]  # as RWKV's FFNNs do
        return type(mlp).forward(mlp, hidden + before)

    with replaced({mlp: shifted}):
        mixing = replace(toy_model, end_ids=())
        assert not mixing.ffns_pack
        assert mixing.logits_are_unembedded
        with ffn_positions(mixing) as seen:
            together = replay(mixing, TEXTS, [7, 1, 3], Wanted([1, 2]))()
        assert seen == [N_PADDED]
        for text, one in zip(TEXTS, together, strict=True):
            (alone,) = replay(mixing, [text], [len(text)], Wanted([1, 2]))()
            np.testing.assert_allclose(one.activations[2], alone.activations[2], atol=1e-5)


def test_an_ffn_that_cannot_take_a_packed_batch_is_given_the_whole_one(toy_model: Model) -> None:
    mlp = toy_model.network.model.layers[0].mlp

    def knows_the_batch(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[0] != 2:
            raise RuntimeError("two texts are expected")
        return type(mlp).forward(mlp, hidden)

    with replaced({mlp: knows_the_batch}):
        assert not replace(toy_model).ffns_pack


def test_a_store_is_the_same_whether_ffns_pack_or_not(toy_model: Model, tmp_path: Path, opened: Any) -> None:
    prompts: list[Any] = [
        "a",
        " 1, 2, 3, 4, 5, 6",
        {"text": "The countries of the European Union, and others"},
        {"text": "b"},
    ]
    whole = replace(toy_model)
    whole.__dict__["ffns_pack"] = False
    for name, model in [("packed", toy_model), ("whole", whole)]:
        actlake.capture(
            tmp_path / name,
            model,
            prompts,
            max_new_tokens=5,
            precision="float32",
            gradients="off",
            only_generated=False,
        )
    packed, plain = (actlake.open(tmp_path / name) for name in ("packed", "whole"))
    for number in range(4):
        one, other = packed.generation(number), plain.generation(number)
        assert one.tokens["token_id"].tolist() == other.tokens["token_id"].tolist()
        np.testing.assert_allclose(one.activations(), other.activations(), atol=1e-6)
        np.testing.assert_allclose(one.embeddings(), other.embeddings(), atol=1e-6)
