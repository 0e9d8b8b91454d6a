"""The corpus page: every generation of the store in one table, each with a link to its own page."""

import shlex

import pandas as pd
import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError
from ..queries import Store
from .address import CorpusAddress
from .page import CONTROL_CSS, address_bar, css, html, page, problem
from .strip import STATIC

TABLE_CSS = STATIC / "table.css"

PAGE_SIZE = 25
MAX_CELL_CHARACTERS = 400
SEARCHED = ("prompt", "completion", "model", "metadata")
TITLES = {
    "generation_id": "id",
    "prompt": "prompt",
    "completion": "completion",
    "n_prompt_tokens": "prompt tokens",
    "n_generated": "generated",
    "model": "model",
    "finish_reason": "finish",
}
WIDTHS = {"generation_id": 64, "n_prompt_tokens": 118, "n_generated": 96, "model": 180, "finish_reason": 80}
COLUMNS = [
    {"field": "prompt", "minWidth": 140},
    {"field": "completion", "minWidth": 140},
    {"field": "n_prompt_tokens", "headerHozAlign": "right"},
    {"field": "n_generated", "headerHozAlign": "right"},
]
VISIBLE = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→"})
TO_GENERATION = {"type": "link", "urlPrefix": "generation?id=", "urlField": "generation_id", "target": "_self"}


def corpus_page(store: Store) -> pn.Template:
    """The page at `/`: the corpus as the store's newest commit has it."""
    pn.extension("tabulator")
    try:
        generations = store.refresh().generations()
    except ActlakeError as error:
        return page("actlake", html(problem(str(error))))
    uri = store.uri
    if generations.empty:
        return page("actlake", html(empty_corpus(uri)))

    location = address_bar()
    address = CorpusAddress.parse(location.search)
    found = matching(generations, address.search)
    heading = html(corpus_heading(uri, len(generations), len(found)))
    search = pn.widgets.TextInput(
        label="",
        value=address.search,
        placeholder="Search prompts, completions, models and metadata",
        sizing_mode="stretch_width",
        max_width=460,
        margin=(0, 0, 14, 0),
        stylesheets=[css(CONTROL_CSS)],
    )
    table = pn.widgets.Tabulator(
        corpus_table(found),
        titles=TITLES,
        widths=WIDTHS,
        formatters={"generation_id": TO_GENERATION | {"labelField": "label"}, "prompt": TO_GENERATION},
        hidden_columns=["label"],
        sortable=True,
        pagination="remote",
        page_size=PAGE_SIZE,
        show_index=False,
        disabled=True,
        selectable=False,
        layout="fit_columns",
        configuration={"responsiveLayout": "hide", "columns": COLUMNS},
        sizing_mode="stretch_width",
        theme="simple",
        stylesheets=[css(TABLE_CSS)],
        margin=0,
    )

    def look(event: object) -> None:
        searched = search.value or ""
        found = matching(generations, searched)
        table.page = 1
        table.value = corpus_table(found)
        heading.object = str(corpus_heading(uri, len(generations), len(found)))
        location.search = CorpusAddress(searched).query()

    search.param.watch(look, "value")
    return page("actlake", heading, search, table)


def matching(generations: pd.DataFrame, search: str) -> pd.DataFrame:
    """The generations in whose texts `search` occurs, whatever its case."""
    if not search:
        return generations
    found = pd.Series(False, index=generations.index)
    for column in SEARCHED:
        found |= generations[column].fillna("").str.contains(search, case=False, regex=False)
    return generations[found]


def corpus_table(generations: pd.DataFrame) -> pd.DataFrame:
    """The rows as the table shows them: long texts cut, line breaks and tabs visible."""
    table = generations.assign(n_generated=generations["n_tokens"] - generations["n_prompt_tokens"])
    for column in ("prompt", "completion"):
        table[column] = [_one_line(text) for text in table[column].fillna("")]
    table["label"] = table["generation_id"].astype(str)  # Tabulator draws no link for the number 0
    return table[[*TITLES, "label"]].reset_index(drop=True)


def corpus_heading(uri: str, n_generations: int, n_found: int) -> Markup:
    """The title line and how many generations are shown."""
    counted = f"{n_generations:,} generation{'s' if n_generations != 1 else ''}"
    if n_found != n_generations:
        counted = f"{n_found:,} of {counted}"
    return Markup('<h1>Corpus</h1><p class="lead">{} in {}</p>').format(counted, uri)


def empty_corpus(uri: str) -> Markup:
    """What the page says when there is nothing to list: how to capture."""
    command = f"actlake capture {shlex.quote(uri)} --model smollm2-135m --prompt ' 1, 2, 3,'"
    return Markup(
        '<section class="empty"><h1>No generations yet</h1>'
        "<p>{} holds none. Capture some, then reload this page:</p><pre>{}</pre></section>"
    ).format(uri, command)


def _one_line(text: str) -> str:
    shown = text[:MAX_CELL_CHARACTERS].translate(VISIBLE)
    return f"{shown}…" if len(text) > MAX_CELL_CHARACTERS else shown
