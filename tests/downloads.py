"""What a page saves: pressed like a person does, read back as text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from playwright.sync_api import Page


def file_of(page: Page, what: str) -> str:
    """The text of the file that the button named `what` saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=what).click()
    return Path(download.value.path()).read_text("utf-8")


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names in its first line."""
    return list(csv.DictReader(io.StringIO(text, newline="")))
