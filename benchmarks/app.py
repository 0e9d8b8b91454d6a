"""Measures the app in a real browser, on the demo's store and on one 100 times as large: what a person waits for.

    python benchmarks/app.py [--store actlake-demo] [--folder FOLDER] [--times 100] [--rounds 9] [--only NAME,…]

Each store is served by a process of its own. A page is warm: opened once before, its scripts in the browser's cache. A time
begins where the browser does (a navigation, an event) and ends after the frame in which what was asked for is painted. The large
store repeats the demo's generations under other numbers, each time with other values (some 10 GB, a few minutes, once: it is
kept in FOLDER).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import actlake
import numpy as np
import pyarrow as pa
from actlake.store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    Location,
    Log,
    Reservation,
    index,
    write_shard,
    write_table,
)
from actlake.store.schema import RUNS
from actlake.ui.document import Shown, document
from actlake.ui.strip import float32_base64
from main_job import spread
from playwright.sync_api import Page, sync_playwright

LAYER, NEURON = 4, 1234
LONG, FACTORS = 2000, 12
SERVE = """
import sys, actlake
from actlake.ui import serve
server = serve(actlake.open(sys.argv[1]), port=0, block=False)
print(server.url, flush=True)
sys.stdin.read()
"""

# `deep(test)`: the first element that passes the test, in shadow roots too. `shown`: a promise of the time when the first frame
# with an element that passes the awaited test is painted: it is looked for as each frame begins, and what is posted then runs
# when the frame is done.
IN_THE_PAGE = """
const attach = Element.prototype.attachShadow;  // the early part of a page is drawn in a closed root
Element.prototype.attachShadow = function (options) { return attach.call(this, {...options, mode: "open"}); };
window.bench = {
  deep(test, root = document) {
    for (const element of root.querySelectorAll("*")) {
      if (test(element)) return element;
      const found = element.shadowRoot && bench.deep(test, element.shadowRoot);
      if (found) return found;
    }
    return null;
  },
  tests: {
    token: (element) => element.matches(".token .face") && element.closest(".strip"),
    example: (element) => element.matches(".example .token"),
    spark: (element) => element.matches(".spark"),
    row: (element) => element.matches(".tabulator-row, tbody tr"),
  },
  shown: new Promise((done) => {
    const look = () => {
      if (!bench.deep(bench.tests[sessionStorage.awaited])) return requestAnimationFrame(look);
      const channel = new MessageChannel();
      channel.port1.onmessage = () => done(performance.now());
      channel.port2.postMessage(0);
    };
    if (location.protocol === "http:" && sessionStorage.awaited) requestAnimationFrame(look);
  }),
};
"""


@dataclass(frozen=True)
class Question:
    """What is measured, and the most it may take in milliseconds; in the large store too unless told otherwise."""

    name: str
    limit: float
    ask: Callable[[Page, str, int], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("actlake-demo"))
    parser.add_argument("--folder", type=Path, default=Path("actlake-benchmark"))
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    stores = {"the demo's store": captured(asked.store)}
    if asked.times > 1:
        stores[f"{asked.times} times as large"] = repeated(
            asked.store, asked.folder / f"demo-{asked.times}", asked.times
        )
    wanted = [question for question in QUESTIONS if any(word in question.name for word in asked.only.split(","))]
    medians: dict[str, list[float]] = {}
    with browser_page() as page:
        for name, path in stores.items():
            print(f"\n{name}: {actlake.open(path)!r}\n")
            with served(path) as url:
                for question in wanted:
                    times = [question.ask(page, url, number) for number in range(-2, asked.rounds)][2:]
                    medians.setdefault(question.name, []).append(float(np.median(times)))
                    over = f"{np.median(times) / question.limit:5.2f} of the limit, {question.limit:.0f} ms"
                    print(f"{question.name:44} {spread(times, unit=' ms'):34} {over}", flush=True)
    if len(stores) > 1:
        print("\nthe large store over the demo's\n")
        for name, (small, large) in medians.items():
            print(f"{name:44} {large / small:8.2f}×")


def captured(path: Path) -> Path:
    """The demo's store, captured when it is not there."""
    if not (path / "_log").exists():
        subprocess.run([sys.executable, "-m", "actlake", "demo", "--store", str(path), "--no-serve"], check=True)
    return path


def repeated(source: Path, path: Path, times: int) -> Path:
    """The store with its generations `times` times, the values of each repetition larger or smaller by a few percent, indexed."""
    if (path / "_log").exists():
        return path
    store, location, random = actlake.open(source), Location.of(path), np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = times * int(store.size()["bytes"].sum()), shutil.disk_usage(path.parent).free
    if free < needed * 1.2:
        raise SystemExit(f"{path} needs {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free: give another --folder")
    generations = [whole(store, number) for number in store.generations()["generation_id"]]
    n, log = len(generations), Log(location)
    row = store.sql("select * from runs where run_id = 0").to_arrow_table().to_pylist()[0]
    runs = write_table(
        location, RUNS, pa.Table.from_pylist([row | {"created_at": datetime(2026, 1, 1)}], schema=RUNS.arrow)
    )
    log.commit(lambda _: Commit("register", "repeated", [runs], reserve=Reservation(0, 0, n * times)))
    for time in range(times):
        factor = np.float32(random.uniform(0.9, 1.1))
        shard = [again(generation, time * n + number, time, factor) for number, generation in enumerate(generations)]
        files = write_shard(location, shard, "bfloat16")
        log.commit(lambda _, key=f"{time}", files=files: Commit("capture", key, files))
        print(f"\r{time + 1} of {times} repetitions written", end="", file=sys.stderr, flush=True)
    print(f"\n{index(location).sentence()}", file=sys.stderr)
    return path


def whole(store: actlake.Store, generation_id: int) -> CapturedGeneration:
    """A generation as it was captured."""
    kept, tokens = store.generation(generation_id), store.generation(generation_id).tokens
    n, p = kept.n_tokens, kept.n_prompt_tokens
    activations = kept.activations().reshape(n, len(kept.layers), -1)
    return CapturedGeneration(
        generation_id=generation_id,
        run_id=0,
        prompt_index=generation_id,
        prompt=kept.prompt,
        completion=kept.completion,
        n_prompt_tokens=p,
        finish_reason=kept.finish_reason,
        metadata=kept.metadata,
        tokens=CapturedTokens(
            token_id=tokens["token_id"].to_numpy(np.int32),
            token=tokens["token"].tolist(),
            char_start=tokens["char_start"].to_numpy(np.int32),
            char_end=tokens["char_end"].to_numpy(np.int32),
            is_special=tokens["is_special"].to_numpy(bool),
            logprob=tokens["logprob"].fillna(0).to_numpy(np.float32),
            rank=tokens["rank"].fillna(0).to_numpy(np.int32),
            entropy=tokens["entropy"].fillna(0).to_numpy(np.float32),
        ),
        embeddings=kept.embeddings(),
        gradients=[kept.gradients(position) for position in range(p, n)],
        activations={layer: np.ascontiguousarray(activations[:, at]) for at, layer in enumerate(kept.layers)},
    )


def again(first: CapturedGeneration, generation_id: int, time: int, factor: np.float32) -> CapturedGeneration:
    """The generation under another number, its activations and gradients times `factor`."""
    made = {
        "generation_id": generation_id,
        "prompt_index": generation_id,
        "metadata": {**first.metadata, "repetition": time},
        "activations": {layer: values * factor for layer, values in (first.activations or {}).items()},
        "gradients": [values * factor for values in first.gradients or ()],
    }
    return CapturedGeneration(**{**first.__dict__, **made})


@contextmanager
def served(path: Path) -> Iterator[str]:
    """The URL of the store's app, in a process of its own."""
    command = [sys.executable, "-c", SERVE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@contextmanager
def browser_page() -> Iterator[Page]:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        page.add_init_script(IN_THE_PAGE)
        yield page
        browser.close()


def opened(page: Page, url: str, test: str) -> float:
    """Milliseconds from the navigation's start to the first frame that shows an element that passes a test of that name."""
    if (root := url.partition("?")[0].rpartition("/")[0]) != page.url.partition("?")[0].rpartition("/")[0]:
        page.goto(f"{root}/favicon.ico")  # what is awaited is kept for its origin
    page.evaluate("(test) => { sessionStorage.awaited = test; }", test)
    page.goto(url, wait_until="commit")
    taken = float(page.evaluate("() => bench.shown"))
    page.evaluate(LIVE)
    page.wait_for_timeout(400)  # nobody clicks on while the page's session is still being made
    return taken


def open_generation(page: Page, url: str, number: int) -> float:
    return opened(page, f"{url}generation?id={number % 12}", "token")


def open_corpus(page: Page, url: str, number: int) -> float:
    return opened(page, url, "row")


def open_neuron(page: Page, url: str, number: int) -> float:
    return opened(page, f"{url}neuron?layer={LAYER}&neuron={NEURON + number}", "example")


def open_factors(page: Page, url: str, number: int) -> float:
    """One layer's factors, of a generation and k that were not asked for before."""
    return opened(
        page, f"{url}generation?id={(number + 5) % 12}&view=factors&layers=4&k={5 + (number + 5) // 12}", "spark"
    )


def recolour(page: Page, url: str, number: int) -> float:
    """The pointer comes onto an output token, as browsers tell it: at a frame's beginning; until that frame is painted."""
    address = f"{url}generation?id=5"
    if page.url != address:
        opened(page, address, "token")
        page.wait_for_timeout(3000)
    return hovered(page, f'.token[data-position="{45 + number}"]')


def hovered(page: Page, selector: str) -> float:
    return float(
        page.evaluate(
            """(selector) => new Promise((done) => {
              const element = bench.deep((one) => one.matches(selector));
              requestAnimationFrame(() => {
                const start = performance.now(), channel = new MessageChannel();
                channel.port1.onmessage = () => done(performance.now() - start);
                element.dispatchEvent(new PointerEvent("pointerover", {bubbles: true, composed: true}));
                channel.port2.postMessage(0);
              });
            })""",
            selector,
        )
    )


def recolour_long_by_factor(page: Page, url: str, number: int) -> float:
    return recolour_long(page, 0, f'.spark[data-factor="{(number + 2) % FACTORS}"]')


def recolour_long_by_saliency(page: Page, url: str, number: int) -> float:
    return recolour_long(page, 1, f'.token[data-position="{LONG // 2 + number + 2}"]')


def recolour_long(page: Page, view: int, selector: str) -> float:
    """The same of a strip of 2,000 tokens, on a page of its own that shows what is seen of it."""
    address = f"{long_strip().as_uri()}#[{view},{{}}]"
    if unquote(page.url) != address:
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_timeout(2000)
    taken = hovered(page, selector)
    page.wait_for_timeout(400)  # for what is out of sight
    return taken


@cache
def long_strip() -> Path:
    """A saved page with a strip of 2,000 tokens, coloured by 12 factors and by saliency."""
    random = np.random.default_rng(0)
    words = np.array([" the", " of", "ing", " state", ",", " model", "\n", " quick", ".", "es", " 12"])
    numbers, none = list(range(LONG)), [None] * LONG
    tokens: dict[str, Any] = {
        "text": random.choice(words, LONG).tolist(),
        "first": numbers,
        "last": numbers,
        "id": numbers,
    }
    tokens |= {"generated": [n >= LONG // 2 for n in numbers], "special": [False] * LONG}
    tokens |= dict.fromkeys(("role", "logprob", "rank", "entropy"), none)
    both = {"n_prompt": LONG // 2, "tokens": tokens}
    values = random.exponential(size=(LONG, FACTORS)).astype(np.float32)
    factors = {"k": FACTORS, "layers": [0], "error": 0.5, "explained": None, "stability": None, "labels": {}}
    shares = random.dirichlet(np.full(LONG, 0.02), size=LONG // 2).astype(np.float32)
    saliency = {"method": "grad_x_input", "signed": False, "masked": False, "outputs": numbers[LONG // 2 :]}
    by_factor = {"kind": "factors", **both, "factors": factors | {"values": float32_base64(values)}}
    by_saliency = {"kind": "saliency", **both, "saliency": saliency | {"shares": float32_base64(shares)}}
    path = Path(tempfile.mkdtemp(prefix="actlake-")) / "long.html"
    path.write_text(document("2,000 tokens", [Shown("Factors", by_factor), Shown("Saliency", by_saliency)]), "utf-8")
    return path


def run_query(page: Page, url: str, number: int) -> float:
    address = f"{url}sql?run=1&sql={QUERY.format(number + 2)}"
    return opened(page, address, "row")


LIVE = """() => new Promise((done) => {
  const look = () => document.getElementById("early") ? setTimeout(look, 20) : done();
  look();
})"""
QUERY = "select+token,+count(*)+as+n+from+tokens+where+position+%3E+{}+group+by+token"
QUESTIONS = [
    Question("open a generation", 300, open_generation),
    Question("hover to recolour", 16, recolour),
    Question("… 2,000 tokens by one of 12 factors", 16, recolour_long_by_factor),
    Question("… 2,000 tokens by saliency", 16, recolour_long_by_saliency),
    Question("one layer's factors, with its page", 1000, open_factors),
    Question("a neuron's page", 300, open_neuron),
    Question("the corpus's page", 1000, open_corpus),
    Question("a query, with its page", 1000, run_query),
]

if __name__ == "__main__":
    main()
