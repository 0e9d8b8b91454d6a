"""Takes the README's screenshots from the demo's store, in a headless Chromium.

make demo ARGS=--no-serve && make docs
"""

import shutil
import sys
from pathlib import Path

import actlake
from actlake.ui import serve
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
PAGES = {
    "corpus": "",
    "saliency": "generation?id=8&view=saliency&output=19&detail=1",
    "factors": "generation?id=5&view=factors&k=6&layers=8-11",
}


def main(store: str = "actlake-demo") -> None:
    """Write `docs/images/*.png`."""
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    with serve(actlake.open(store), port=0, block=False) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 600}, device_scale_factor=1.5)
        for name, address in PAGES.items():
            page.goto(server.url + address, wait_until="networkidle")
            page.wait_for_timeout(3000)  # factors are computed, fonts are drawn
            page.screenshot(path=IMAGES / f"{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
