"""Labels: people's names for factors and neurons, of which the newest counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.errors import ActlakeError, FactorizationNotFound, InvalidOption, UnknownLayer, UnknownNeuron
from actlake.store import Location, compact, verify


@pytest.fixture
def store(tmp_path: Path) -> actlake.Store:
    location = Location.of(tmp_path / "store")
    stores.a_store(location)
    stores.save_factors(location)
    return actlake.open(location.uri)


def texts(store: actlake.Store) -> list[str]:
    return store.labels()["label"].tolist()


def test_the_newest_label_of_each_thing_counts(store: actlake.Store) -> None:
    store.label("commas", factorization_id=0, factor=1)
    store.label("numbers", factorization_id=1, factor=1)
    store.label("a neuron", layer=3, neuron=7)
    store.label("that of run 0", layer=3, neuron=7, run_id=0)
    store.label("punctuation", factorization_id=0, factor=1)
    rows = store.labels()
    names = ["label", "factorization_id", "factor", "run_id", "layer", "neuron"]
    assert rows[names].astype(object).where(rows[names].notna(), None).to_numpy().tolist() == [
        ["punctuation", 0, 1, None, None, None],
        ["numbers", 1, 1, None, None, None],
        ["that of run 0", None, None, 0, 3, 7],
        ["a neuron", None, None, None, 3, 7],
    ]
    assert store.read_sql("select count(*) from label_changes").fetchall() == [(5,)]


def test_an_empty_label_takes_the_one_before_away(store: actlake.Store) -> None:
    store.label("commas", factorization_id=0, factor=1)
    store.label("", factorization_id=0, factor=1)
    assert texts(store) == []
    store.label("again", factorization_id=0, factor=1)
    assert texts(store) == ["again"]


def test_a_label_is_the_text_that_was_given(store: actlake.Store) -> None:
    text = "<b>'\"; drop table\n\x00\u202e\U0001f600"
    store.label(text, layer=0, neuron=0)
    assert texts(actlake.open(store.uri)) == [text]


def test_two_who_label_at_once_lose_nothing(store: actlake.Store) -> None:
    other = actlake.open(store.uri)
    store.label("one", layer=0, neuron=0)
    other.label("two", layer=0, neuron=1)
    assert texts(other) == ["one", "two"]
    assert verify(Location.of(store.uri), deep=True).ok


def test_labels_survive_a_compaction(store: actlake.Store) -> None:
    for number in range(4):
        store.label(f"label {number}", layer=0, neuron=number % 2)
    compact(store.location)
    assert texts(store.refresh()) == ["label 2", "label 3"]
    store.label("label 4", layer=0, neuron=0)
    assert texts(store) == ["label 4", "label 3"]


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        ({}, InvalidOption),
        ({"factorization_id": 0}, InvalidOption),
        ({"layer": 0}, InvalidOption),
        ({"factorization_id": 0, "factor": 0, "layer": 0, "neuron": 0}, InvalidOption),
        ({"factorization_id": 0, "factor": 2}, InvalidOption),
        ({"factorization_id": 2, "factor": 0}, FactorizationNotFound),
        ({"layer": 1, "neuron": 0}, UnknownLayer),
        ({"layer": 0, "neuron": stores.D_FF}, UnknownNeuron),
    ],
)
def test_what_is_not_there_has_no_label(store: actlake.Store, thing: dict[str, Any], error: type[ActlakeError]) -> None:
    version = store.snapshot.version
    with pytest.raises(error):
        store.label("text", **thing)
    assert store.refresh().snapshot.version == version


def test_a_store_as_it_was_takes_no_label(store: actlake.Store) -> None:
    with pytest.raises(InvalidOption, match="open it without `at` to label"):
        actlake.open(store.uri, at=1).label("text", layer=0, neuron=0)
