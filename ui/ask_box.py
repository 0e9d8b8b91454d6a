"""The box on the corpus page that asks the model: what is typed there goes into the line, and its answer is opened."""

import asyncio
import json
from typing import Any, ClassVar

import panel as pn
import param
from panel.custom import JSComponent

from ..errors import ActlakeError
from .ask import MOST_NEW_TOKENS, Asked, Asker
from .modules import STATIC, joined

LOOK_S = 0.2
"""How often the box says how an answer stands."""


def ask_box(asker: Asker) -> "AskBox":
    """The box. Who leaves the page gives up what they asked."""
    box = AskBox(name_of_model=asker.name, payload=_payload("idle"))
    mine: Asked | None = None

    async def ask(event: Any) -> None:
        nonlocal mine
        said = json.loads(event.new)
        try:
            mine = asker.ask(str(said["prompt"]), int(said["max_new_tokens"]), float(said["temperature"]))
        except ActlakeError as error:
            box.payload = _payload("failed", str(error))
            return
        except (KeyError, TypeError, ValueError):
            box.payload = _payload("failed", "give a number of tokens and a temperature")
            return
        asked, done = mine, asyncio.wrap_future(mine.result)
        while not done.done():
            box.payload = _payload("busy", asked.sentence(), asked.fraction)
            await asyncio.wait({done}, timeout=LOOK_S)
        if asked.result.exception():
            box.payload = _payload("failed", asked.error())
            return
        box.payload = _payload("idle", "captured")
        box.opened = f"generation?id={asked.result.result()}"

    def cancel(event: object) -> None:
        if mine:
            mine.cancel()

    def leave(session_context: object) -> None:
        cancel(session_context)

    box.param.watch(ask, "asked")
    box.param.watch(cancel, "cancelled")
    pn.state.on_session_destroyed(leave)
    return box


class AskBox(JSComponent):
    """The box; `static/ask.js` says what it is given."""

    name_of_model = param.String(default="")
    most = param.Integer(default=MOST_NEW_TOKENS)
    payload = param.String(default="")
    asked = param.String(default="")
    cancelled = param.Integer(default=0)
    opened = param.String(default="")

    _esm = joined("ask")
    _stylesheets: ClassVar[list[str]] = [(STATIC / "ask.css").read_text(encoding="utf-8")]

    def __init__(self, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)  # type: ignore[no-untyped-call]


def _payload(state: str, message: str = "", fraction: float = 0.0) -> str:
    return json.dumps({"state": state, "message": message, "fraction": fraction})
