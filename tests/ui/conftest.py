"""The app's tests: stores written by hand (real files, a real log, every text chosen) and a real headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import actlake
import numpy as np
import pyarrow as pa
import pytest
from actlake.store import (
    TABLES,
    CapturedGeneration,
    CapturedPredictions,
    CapturedTokens,
    Commit,
    Location,
    Log,
    Reservation,
    write_shard,
    write_table,
)
from actlake.ui import Server, serve
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
expect.set_options(timeout=15_000)  # a first factorisation imports scikit-learn, and CI's machine may be busy
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
D_MODEL, D_FF, LAYERS = 4, 12, (0, 1)
RECORDED = ("embeddings", "gradients", "activations")

COUNTING = [" 1", ",", " 2", ",", " 3", ",", " 4", ",", " 5", ",", " 6", ",", " 7", "."]
HOSTILE = [
    "<|start|>",
    "<script>window.hacked = 1</script>",
    "\u202e",
    "<0xE2><0x82>",
    "</pre><img src=x onerror='window.hacked = 1'>",
    "\x00\x07",
    "\"'&amp;",
    "\n",
    "\t",
    " end",
]


class Written(NamedTuple):
    """A generation to write: its tokens' texts, the first `n_prompt` of them the prompt."""

    texts: Sequence[str]
    n_prompt: int
    metadata: Mapping[str, Any] = {}
    special: Sequence[int] = ()


@pytest.fixture(scope="session")
def write_store() -> Callable[..., actlake.Store]:
    """A function that writes generations, each (texts, n_prompt, …), into a folder and opens the store; in several shards each
    has every so-manieth of them. `run` is what the run's row says instead; a second run's generations are numbered from `first`.

    The vectors are random, the same each time.
    """

    def write(
        path: Path,
        *written: Any,
        recorded: Sequence[str] = RECORDED,
        shards: int = 1,
        run: Mapping[str, Any] = MappingProxyType({}),
        d_ff: int = D_FF,
        first: int = 0,
    ) -> actlake.Store:
        location, run_id = Location.of(path), run.get("run_id", 0)
        log = Log(location)
        runs = write_table(location, TABLES["runs"], _run(recorded, {"d_ff": d_ff, **run}))
        reserved = Reservation(run_id, first, len(written))
        log.commit(lambda _: Commit("register", f"run-{run_id}", add=[runs], reserve=reserved))
        if written:
            generations = [
                _generation(first + i, Written(*one), recorded, d_ff, run_id) for i, one in enumerate(written)
            ]
            for number in range(shards):
                files, key = write_shard(location, generations[number::shards], "float32"), f"{run_id}-{number}"
                log.commit(lambda _, key=key, files=files: Commit("append", key, add=files))
        return actlake.open(str(path))

    return write


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """Generation 0 counts, 1 is hostile, 2 is a prompt alone, 3 to 32 are many."""
    return write_store(
        tmp_path_factory.mktemp("store"),
        Written(COUNTING, 6, {"topic": "numbers"}),
        Written(HOSTILE, 4, {"<b>key</b>": "<img src=x onerror='window.hacked = 1'>"}, [0]),
        Written([" only", " a", " prompt"], 3),
        *(Written(["Prompt", f" {i}", " goes", " on"], 2) for i in range(30)),
    )


@pytest.fixture(scope="session")
def server(store: actlake.Store) -> Iterator[Server]:
    with serve(store, port=0, block=False) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must stay quiet: an error on its console fails the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(15_000)
    yield page
    page.close()
    assert complaints == []


def _run(recorded: Sequence[str], said: Mapping[str, Any]) -> pa.Table:
    row = dict.fromkeys(TABLES["runs"].arrow.names, "") | {
        "run_id": 0,
        "model": "tiny-by-hand",
        "n_layers": len(LAYERS),
        "d_model": D_MODEL,
        "d_ff": D_FF,
        "vocab_size": 1000,
        "precision": "float32",
        "recorded": list(recorded),
        "generation_config": '{"layers": [0, 1]}',
        "seed": 0,
        "versions": "{}",
        "created_at": datetime(2026, 1, 1),
        "status": "complete",
        **said,
    }
    return pa.Table.from_pylist([row], schema=TABLES["runs"].arrow)


def _generation(
    generation_id: int, written: Written, recorded: Sequence[str], d_ff: int, run_id: int
) -> CapturedGeneration:
    n, p = len(written.texts), written.n_prompt
    random = np.random.default_rng(generation_id)
    ends = np.cumsum([len(text) for text in written.texts])

    def vectors(rows: int, width: int) -> np.ndarray:
        return (random.standard_normal((rows, width)) * random.gamma(0.5, 2.0, (rows, 1))).astype(np.float32)

    return CapturedGeneration(
        generation_id=generation_id,
        run_id=run_id,
        prompt_index=generation_id,
        prompt="".join(written.texts[:p]),
        completion="".join(written.texts[p:]),
        n_prompt_tokens=p,
        finish_reason="length",
        metadata=written.metadata,
        tokens=CapturedTokens(
            token_id=np.arange(100, 100 + n, dtype=np.int32),
            token=list(written.texts),
            char_start=np.concatenate([[0], ends[:-1]]).astype(np.int32),
            char_end=ends.astype(np.int32),
            is_special=np.isin(np.arange(n), written.special),
            logprob=-random.gamma(1.0, 1.0, n).astype(np.float32),
            rank=random.integers(1, 9, n).astype(np.int32),
            entropy=random.gamma(2.0, 1.0, n).astype(np.float32),
        ),
        embeddings=vectors(n, D_MODEL) if "embeddings" in recorded else None,
        gradients=[vectors(output, D_MODEL) for output in range(p, n)] if "gradients" in recorded else None,
        activations={layer: vectors(n, d_ff) for layer in LAYERS} if "activations" in recorded else None,
        layer_predictions=_predictions(written.texts) if "layer_predictions" in recorded else None,
    )


def _predictions(texts: Sequence[str]) -> dict[int, CapturedPredictions]:
    """Layer 0 thinks that each token comes again, at rank 7 for what came next; layer 1 is right."""
    n = len(texts)
    ids = np.arange(100, 100 + n, dtype=np.int32)
    following = np.append(ids[1:], 100).astype(np.int32)
    said = {0: np.stack([ids, following], 1), 1: np.stack([following, ids], 1)}
    came_next = np.arange(n) < n - 1
    return {
        layer: CapturedPredictions(
            np.where(came_next, 7 if layer == 0 else 1, 0).astype(np.int32),
            np.where(came_next, 0.03125 if layer == 0 else 0.75, 0).astype(np.float32),
            top,
            np.array([texts[token_id - 100] for token_id in top.ravel()], object).reshape(top.shape),
            np.tile(np.array([0.75, 0.125], np.float32), (n, 1)),
        )
        for layer, top in said.items()
    }
