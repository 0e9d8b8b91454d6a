"""The desk: work for a strip is done one piece at a time, and only the newest request's result is drawn."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from actlake.errors import InvalidOption
from actlake.ui.desk import Desk
from actlake.ui.drawing import Drawing


def test_only_the_newest_of_three_requests_is_drawn_and_the_middle_one_is_never_worked_on() -> None:
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def work() -> dict[str, Any]:
        asked.append(len(asked))
        begun.set()
        assert go_on.wait(10)
        return {"request": asked[-1]}

    async def three_requests(desk: Desk) -> None:
        first = asyncio.create_task(desk.start())
        await asyncio.to_thread(begun.wait, 10)
        later = [asyncio.create_task(desk.start()) for _ in range(2)]
        await asyncio.sleep(0)
        assert desk.strip.busy
        go_on.set()
        await asyncio.gather(first, *later)

    desk = Desk(Drawing(), work, "Working …")
    asyncio.run(three_requests(desk))
    assert asked == [0, 1]
    assert json.loads(desk.strip.payload) == {"request": 1}
    assert not desk.strip.busy


def test_an_error_takes_the_place_of_the_strip_until_the_next_result() -> None:
    results: list[Any] = [InvalidOption("k", 99, "<too> large"), {"request": 1}]

    def work() -> dict[str, Any]:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    desk = Desk(Drawing(), work, "Working …")
    asyncio.run(desk.start())
    assert "k=99 cannot be used: &lt;too&gt; large" in desk.trouble.object
    assert (desk.trouble.visible, desk.strip.visible) == (True, False)
    asyncio.run(desk.start())
    assert (desk.trouble.visible, desk.strip.visible) == (False, True)


def test_a_failure_that_nobody_foresaw_ends_the_wait_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> dict[str, Any]:
        raise MemoryError

    desk = Desk(Drawing(), work, "Working …")
    with caplog.at_level(logging.ERROR):
        asyncio.run(desk.start())
    assert "this could not be worked out" in desk.trouble.object
    assert not desk.strip.busy
    assert "MemoryError" in caplog.text
