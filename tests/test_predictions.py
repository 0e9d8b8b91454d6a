"""What a model says of tokens, from logits that come some after the others, against all of them at once."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from actlake.capture import Model, head
from actlake.capture.predictions import Predicting, predictions
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**32), st.integers(1, 150), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_logits_that_come_some_after_the_others_say_what_all_of_them_say(
    seed: int, n: int, n_vocabulary: int, at_once: int, some_cannot_be: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, n_vocabulary, generator=draw) * torch.randint(0, 40, (n, 1), generator=draw)
    targets = torch.randint(0, n_vocabulary, (n,), generator=draw)
    if some_cannot_be:
        logits[torch.rand(logits.shape, generator=draw) < 0.3] = -torch.inf
        logits.scatter_(1, targets[:, None], 1.0)
    predicting = Predicting(targets, logits.gather(1, targets[:, None])[:, 0])
    for start in range(0, n_vocabulary, at_once):
        predicting.see(logits[:, start : start + at_once].clone(), start)
    found, expected = predicting.done(), predictions(logits, targets)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4, atol=1e-4)


def test_the_targets_logit_is_the_one_that_is_said_to_be_its() -> None:
    logits, targets = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([1])
    predicting = Predicting(targets, torch.tensor([2.0]))
    predicting.see(logits, 0)
    logprob, rank, entropy = predicting.done()[:, 0].tolist()
    of_each = torch.tensor([0.0, 2.0, 3.0]).softmax(0)
    assert rank == 2
    assert logprob == pytest.approx(float(of_each[1].log()))
    assert entropy == pytest.approx(-float((of_each * of_each.log()).sum()))


class Product(torch.nn.Linear):
    """A product that a reader of its type alone does not know."""


class Whole(torch.Tensor):
    """Weights that are to be had as a whole alone, as quantized ones are."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.Tensor.__getitem__, "it cannot be cut"
        if function is not torch.nn.functional.linear:
            return super().__torch_function__(function, types, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs or {})  # a product gives plain numbers


@pytest.mark.parametrize("has_bias", [False, True])
def test_what_is_said_is_the_same_by_vocabulary_and_by_positions(
    any_model: Model, monkeypatch: pytest.MonkeyPatch, has_bias: bool
) -> None:
    monkeypatch.setattr(head, "VOCABULARY_AT_ONCE", 7)
    monkeypatch.setattr(head, "AT_ONCE_BY_VOCABULARY", 50)
    model = replace(any_model, network=deepcopy(any_model.network))
    product = model.network.get_submodule(model.anatomy.unembedding or "")
    n_vocabulary, width = product.weight.shape
    draw = torch.Generator().manual_seed(3)
    product.bias = torch.nn.Parameter(torch.randn(n_vocabulary, generator=draw)) if has_bias else None
    last_hidden = torch.randn(70, width, generator=draw)
    targets = torch.randint(0, n_vocabulary, (70,), generator=draw)
    by_vocabulary = head.said(model, last_hidden, targets)
    weight, product.weight = product.weight, torch.nn.Parameter(product.weight.detach().as_subclass(Whole))
    uncut = head.said(model, last_hidden, targets)
    product.weight, product.__class__ = weight, Product
    by_positions = head.said(model, last_hidden, targets)
    for found in (by_vocabulary, uncut):
        np.testing.assert_allclose(found, by_positions, rtol=1e-5, atol=1e-5)
    assert head.said(model, last_hidden[:0], targets[:0]).shape == (3, 0)
