"""Statistics that a capture makes of what it records: they are those of its files, once, whatever happens to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.capture import Model
from actlake.store import Location, Log, compact, gc, index, verify
from actlake.store import statistics as of_store
from stores import assert_counted

PROMPTS = [" 1, 2, 3,", "One, two,", "keys", {"text": "A captured text."}, "hé 😀", "int sum", "a"]
SAME: dict[str, Any] = {"max_new_tokens": 5, "batch_size": 2}


def operations(store: Path) -> list[str]:
    return [commit.operation for commit in Log(Location.of(store)).commits()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradients": "off"},
        {"precision": "float16", "layers": [1]},
        {"precision": "float32", "neurons": [3, 17, 39], "every": 2},
        {"only_generated": True},
    ],
    ids=str,
)
def test_a_capture_makes_the_statistics_of_what_it_records(
    toy_model: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, **SAME, **options)
    assert operations(tmp_path).count("count") == 1
    assert_counted(tmp_path)


def test_what_records_no_activations_counts_nothing(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path, toy_model, PROMPTS, record=["embeddings"], **SAME)
    assert "count" not in operations(tmp_path)


def test_the_index_step_leaves_them_as_they_are_and_merges_them_when_there_are_many(
    toy_model: Model, tmp_path: Path
) -> None:
    for prompt in PROMPTS[:5]:
        actlake.capture(tmp_path, toy_model, [prompt], **SAME)
    done = operations(tmp_path)
    assert done.count("count") == done.count("index") == 5
    assert done.count("merge") == 2, "of vectors, and of statistics"
    segments = actlake.open(tmp_path).sql("select n_tokens from segments order by all").fetchall()
    assert len(segments) == 4
    assert segments[0::2] == segments[1::2]
    assert_counted(tmp_path)


def test_they_are_committed_when_a_segments_worth_of_tokens_is_there(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_store, "SEGMENT_TOKENS", 20)
    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, **SAME)
    counts = actlake.open(tmp_path).sql("select n_tokens from segments order by n_tokens").fetchall()
    assert len(counts) > 1
    assert all(n_tokens >= 20 for (n_tokens,) in counts[1:])
    assert_counted(tmp_path)


def test_a_capture_that_is_stopped_leaves_them_to_the_index_step(toy_model: Model, tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        if progress.n_done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actlake.capture(tmp_path, toy_model, PROMPTS, index=False, on_progress=stop, **SAME)
    assert "count" not in operations(tmp_path)
    store = actlake.open(tmp_path)
    n_examples, n_files = (
        len(store.sql("from neuron_examples").fetchall()),
        len(store.snapshot.of("activation_vectors")),
    )
    assert n_examples > 0
    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, **SAME)
    n_uncounted = "select count(distinct filename) from uncounted_files"
    assert actlake.open(tmp_path).sql(n_uncounted).fetchall() == [(n_files,)]
    assert verify(Location.of(tmp_path), deep=True).problems == ()
    index(Location.of(tmp_path))
    assert len(actlake.open(tmp_path).sql("from neuron_examples").fetchall()) >= n_examples
    assert_counted(tmp_path)


@pytest.mark.parametrize("other", [index, compact], ids=["indexed", "compacted"])
def test_what_another_process_changed_meanwhile_is_not_counted_twice(
    toy_model: Model, tmp_path: Path, other: Any
) -> None:
    location, done = Location.of(tmp_path), []

    def meanwhile(progress: Any) -> None:
        if progress.n_done >= 4 and not done:
            done.append(other(location))

    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, on_progress=meanwhile, **SAME)
    assert "count" not in operations(tmp_path)
    gc(location, grace_s=0)
    report = verify(location, deep=True)
    assert (report.problems, report.unreferenced) == ((), ())
    index(location)
    assert_counted(tmp_path)


def test_files_that_are_counted_stay_so_when_they_are_put_together(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, **SAME)
    compact(Location.of(tmp_path))
    (file,) = Log(Location.of(tmp_path)).snapshot().of("activation_vectors")
    assert (file.counted, file.indexed) == (True, "")
    assert_counted(tmp_path)


def test_the_parts_of_a_run_count_what_is_theirs(toy_model: Model, tmp_path: Path) -> None:
    for shard in ("1/3", "3/3", "2/3"):
        actlake.capture(tmp_path, toy_model, PROMPTS, shard=shard, **SAME)
    assert operations(tmp_path).count("count") == 3
    assert_counted(tmp_path)


def test_an_index_that_is_made_again_makes_the_statistics_again(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path, toy_model, PROMPTS, **SAME)
    index(Location.of(tmp_path), layers=[1], rebuild=True)
    opened = actlake.open(tmp_path)
    assert opened.sql("select distinct layer from neuron_partials").fetchall() == [(1,)]
    stats = opened.sql("select layer, count(*) from neuron_stats group by all order by all").fetchall()
    assert stats == [(layer, 40) for layer in range(3)]
    index(Location.of(tmp_path))
    assert_counted(tmp_path)


def test_no_other_tokens_than_those_of_their_texts_are_counted(toy_model: Model, tmp_path: Path) -> None:
    """One neuron by hand: its values, from the token-major vectors, by plain NumPy."""
    actlake.capture(tmp_path, toy_model, PROMPTS, index=False, precision="float32", **SAME)
    store = actlake.open(tmp_path)
    query = """
        select activation from by_token.activations join tokens using (generation_id, position)
        where layer = 2 and neuron = 5 and not is_special
    """
    values = np.array(store.sql(query).fetchall())[:, 0]
    query = "select n, mean, std, min, max, density from neuron_stats where layer = 2 and neuron = 5"
    ((n, *found),) = store.sql(query).fetchall()
    assert n == len(values)
    expected = [values.mean(), values.std(), values.min(), values.max(), (values > 0).mean()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
