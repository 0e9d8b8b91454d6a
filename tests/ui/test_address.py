"""Addresses: the state of a page as the query string of its URL."""

import pytest
from actlake.errors import InvalidOption
from actlake.queries import METHODS
from actlake.ui.address import MAX_FACTORS, CorpusAddress, GenerationAddress
from hypothesis import given
from hypothesis import strategies as st

whole = st.integers(0, 10**9)
addresses = st.builds(
    GenerationAddress,
    id=whole,
    view=st.sampled_from(["saliency", "factors"]),
    method=st.sampled_from(METHODS),
    detail=st.booleans(),
    output=st.none() | whole,
    k=st.none() | st.integers(1, MAX_FACTORS),
    layers=st.none() | st.sets(st.integers(0, 200), min_size=1).map(lambda layers: tuple(sorted(layers))),
    factor=st.none() | st.integers(0, MAX_FACTORS - 1),
)


@given(addresses)
def test_an_address_that_is_written_is_read_back(address: GenerationAddress) -> None:
    assert GenerationAddress.parse(address.query()) == address


@given(st.text())
def test_a_search_that_is_written_is_read_back(search: str) -> None:
    assert CorpusAddress.parse(CorpusAddress(search).query()) == CorpusAddress(search)


def test_defaults_are_left_out_of_an_address() -> None:
    assert GenerationAddress(3).query() == "?id=3"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "id='' cannot be used: the address of a generation is /generation?id=NUMBER"),
        ("?id=-1", "id='-1' cannot be used: it must be a whole number, 0 or more"),
        ("?id=²", "id='²' cannot be used: it must be a whole number, 0 or more"),
        ("?id=3&k=0", "k='0' cannot be used: it must be a whole number from 1 to 64"),
        ("?id=3&view=x", "view='x' cannot be used: choose one of saliency, factors, activations, layers"),
        ("?id=3&detail=yes", "detail='yes' cannot be used: it must be a whole number from 0 to 1"),
        ("?id=3&layers=1-", "layers='1-' cannot be used: write numbers and ranges, as in 0,3-5"),
    ],
)
def test_a_bad_value_in_an_address_is_one_clear_sentence(query: str, sentence: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        GenerationAddress.parse(query)
    assert str(raised.value) == sentence
