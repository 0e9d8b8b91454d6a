"""Takes the screenshots of README and docs from the demo's store, in a headless Chromium; each is to be looked at after.

make demo ARGS=--no-serve && make docs

That of the layers needs a store with layer predictions: python docs/screenshots.py STORE layers
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import actlake
from actlake.ui import serve
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
NAME = "demo"
DRAWN = """() => new Promise((done) => {
  const look = () => document.getElementById("early") || document.querySelector(".bk-busy") ? setTimeout(look, 50) : done();
  look();
})"""


@dataclass(frozen=True)
class Picture:
    """A page to take a picture of: `height` of it (all of it when None), after a click on what `press` selects."""

    address: str
    height: int | None = None
    press: str = ""
    dark: bool = False
    width: int = 1100


PICTURES = {
    "corpus": Picture("", 740),
    "saliency": Picture("generation?id=8&view=saliency&output=19&detail=1"),
    "factors": Picture("generation?id=5&view=factors&k=6&layers=8-11"),
    "activations": Picture("generation?id=3&view=activations&layer=4"),
    "layers": Picture("generation?id=3&view=layers"),
    "neuron": Picture("neuron?layer=4&neuron=1234&n=3", 980),
    "neuron-dark": Picture("neuron?layer=5&neuron=1406&n=3", 900, dark=True),
    "corpus-factors": Picture("factors?id=0&sort=stability", 900),
    "factorizations": Picture("factors", 460),
    "sql": Picture("sql", 800),
}


def main(store: str = "actlake-demo", *names: str) -> None:
    """Write `docs/images/*.png`, or those of these names."""
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copytree(store, Path(folder) / NAME)
        os.chdir(folder)  # so that the pages show a name, and no path of this machine
        opened = actlake.open(NAME)
        opened.save(opened.factors(8, layers=[4], reruns=2), "layer 4 of everything")
        opened.save(opened.factors(5, layers=[8, 9], method="pca", positions="generated"), "what was generated")
        with serve(opened, port=0, block=False) as server:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for name, picture in PICTURES.items():
                if name not in (names or PICTURES.keys() - {"layers"}):
                    continue
                page = browser.new_page(
                    viewport={"width": picture.width, "height": picture.height or 600},
                    device_scale_factor=1,
                    color_scheme="dark" if picture.dark else "light",
                )
                take(page, server.url, picture, IMAGES / f"{name}.png")
                page.close()
            browser.close()


def take(page: Page, url: str, picture: Picture, path: Path) -> None:
    """Opens the page, waits until it is drawn, and writes what is seen."""
    page.goto(url + picture.address, wait_until="networkidle")
    page.evaluate(DRAWN)
    page.wait_for_timeout(2500)  # what is worked out after the page is there
    if picture.press:
        page.locator(picture.press).first.click()
        page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=picture.height is None)
    print(json.dumps({"picture": path.name, "kB": path.stat().st_size // 1000}))


if __name__ == "__main__":
    main(*sys.argv[1:])
