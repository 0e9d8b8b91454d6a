"""The cache that knows how long it will get gives what the library's gives."""

from __future__ import annotations

import torch
from actlake.capture import Model
from actlake.capture.cache import RoomyLayer, roomy_cache
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@given(room=st.integers(1, 12), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_keys_and_values_are_those_of_the_library_however_many_come_and_whatever_was_expected(
    room: int, lengths: list[int]
) -> None:
    ours, theirs = RoomyLayer(room), DynamicLayer()
    assert ours.get_seq_length() == 0
    for n in lengths:
        keys, values = torch.randn(2, 3, n, 4), torch.randn(2, 3, n, 5)
        for one, other in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(2) == theirs.get_mask_sizes(2)


def test_what_is_expected_is_held_in_one_place(any_model: Model) -> None:
    ids, cache = torch.tensor([[5, 6, 7]]), DynamicCache(config=any_model.network.config)
    with torch.no_grad(), roomy_cache(any_model.network, 9):
        first = any_model.network(input_ids=ids, past_key_values=cache, use_cache=True)
        places = [layer.keys.data_ptr() for layer in cache.layers]
        any_model.network(input_ids=ids[:, :1], past_key_values=first.past_key_values, use_cache=True)
    assert {type(layer) for layer in cache.layers} == {RoomyLayer}
    assert [layer.keys.data_ptr() for layer in cache.layers] == places
    assert cache.get_seq_length() == 4
    with torch.no_grad():
        plain = any_model.network(input_ids=ids, past_key_values=DynamicCache(config=any_model.network.config))
    assert {type(layer) for layer in plain.past_key_values.layers} == {DynamicLayer}
