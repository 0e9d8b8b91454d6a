"""Takes the screenshots of README and docs from the demo's store, in a headless Chromium; each is to be looked at after.

make demo ARGS=--no-serve && make docs                        # all of them
python docs/screenshots.py actlake-demo clustered watched     # or some
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import actlake
from actlake.capture import load_model
from actlake.ui import serve
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
NAME, MODEL = "demo", "smollm2-135m"
DRAWN = """() => new Promise((done) => {
  const look = () => document.getElementById("early") || document.querySelector(".bk-busy") ? setTimeout(look, 50) : done();
  look();
})"""


@dataclass(frozen=True)
class Picture:
    """A page to take a picture of: `height` of it (all of it when None), after a click on what `press` selects; of an app
    with a model to ask, if it `asks`."""

    address: str
    height: int | None = None
    press: str = ""
    dark: bool = False
    width: int = 1100
    asks: bool = False


PICTURES = {
    "corpus": Picture("", 740),
    "saliency": Picture("generation?id=8&view=saliency&output=19&detail=1"),
    "factors": Picture("generation?id=5&view=factors&k=6&layers=8-11"),
    "activations": Picture("generation?id=3&view=activations&layer=4"),
    "clustered": Picture("generation?id=3&view=activations&layer=4&order=agglomerative&clusters=8&most=200"),
    "layers": Picture("generation?id=3&view=layers"),
    "watched": Picture("generation?id=10&view=layers&watch=%20were%0A%20was", asks=True),
    "neuron": Picture("neuron?layer=4&neuron=1234&n=3", 980),
    "neuron-dark": Picture("neuron?layer=5&neuron=1406&n=3", 900, dark=True),
    "corpus-factors": Picture("factors?id=0&sort=stability", 900),
    "factorizations": Picture("factors", 500),
    "sql": Picture("sql", 800),
}
INTEGRATED = "integrated"
"""The picture of a notebook's drawing: what has no page in the app."""


def main(store: str = "actlake-demo", *names: str) -> None:
    """Write `docs/images/*.png`, or those of these names."""
    wanted = set(names or (*PICTURES, INTEGRATED))
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copytree(store, Path(folder) / NAME)
        os.chdir(folder)  # so that the pages show a name, and no path of this machine
        opened = actlake.open(NAME)
        opened.save(opened.factors(8, layers=[4], reruns=2), "layer 4 of everything")
        opened.save(opened.factors(5, layers=[8, 9], method="pca", positions="generated"), "what was generated")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for asks in (False, True):
            pictures = {name: one for name, one in PICTURES.items() if name in wanted and one.asks == asks}
            if pictures:
                photograph(browser, pictures, MODEL if asks else None)
        if INTEGRATED in wanted:
            of_a_notebook(browser)
        browser.close()


def photograph(browser: Browser, pictures: dict[str, Picture], model: str | None) -> None:
    """Pictures of the pages of an app."""
    with serve(actlake.open(NAME), port=0, block=False, model=model) as server:
        for name, picture in pictures.items():
            page = browser.new_page(
                viewport={"width": picture.width, "height": picture.height or 600},
                device_scale_factor=1,
                color_scheme="dark" if picture.dark else "light",
            )
            take(page, server.url, picture, IMAGES / f"{name}.png")
            page.close()


def of_a_notebook(browser: Browser) -> None:
    """What a notebook shows of integrated gradients of one token."""
    found = actlake.open(NAME).generation(3).integrated_gradients(load_model(MODEL), output_positions=[28], n_steps=200)
    print(json.dumps({"sum": round(float(found.scores.sum()), 2), "delta": round(float(found.deltas[0]), 2)}))
    page = browser.new_page(viewport={"width": 1100, "height": 900}, device_scale_factor=1)
    page.set_content(f'<body style="margin: 0">{found._repr_html_()}</body>')
    page.frame_locator("iframe").locator(".strip .tools").wait_for()
    page.wait_for_timeout(1000)  # the frame becomes as high as its drawing
    page.locator("iframe").screenshot(path=IMAGES / f"{INTEGRATED}.png")


def take(page: Page, url: str, picture: Picture, path: Path) -> None:
    """Opens the page, waits until it is drawn, and writes what is seen."""
    page.goto(url + picture.address, wait_until="networkidle")
    if picture.asks:
        page.locator(".watched-chart").wait_for(timeout=300_000)  # the model is loaded first
    page.evaluate(DRAWN)
    page.wait_for_timeout(2500)  # what is worked out after the page is there
    if picture.press:
        page.locator(picture.press).first.click()
        page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=picture.height is None)
    print(json.dumps({"picture": path.name, "kB": path.stat().st_size // 1000}))


if __name__ == "__main__":
    main(*sys.argv[1:])
