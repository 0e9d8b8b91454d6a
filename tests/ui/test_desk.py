"""The desk: work for a strip is done one piece at a time, and only the newest request's result is drawn."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from actlake.errors import Cancelled, InvalidOption
from actlake.ui.desk import Desk
from actlake.ui.drawing import Drawing
from actlake.ui.following import Following
from actlake.ui.jobs import DRAWINGS, cancel_all


def a_desk(work: Callable[[], dict[str, Any]]) -> Desk:
    return Desk(Drawing(), lambda cancel: DRAWINGS.submit(work), "Working …")


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

    desk = a_desk(work)
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

    desk = a_desk(work)
    asyncio.run(desk.start())
    assert "k=99 cannot be used: &lt;too&gt; large" in desk.trouble.object
    assert (desk.trouble.visible, desk.strip.visible) == (True, False)
    asyncio.run(desk.start())
    assert (desk.trouble.visible, desk.strip.visible) == (False, True)


def test_a_failure_that_nobody_foresaw_ends_the_wait_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> dict[str, Any]:
        raise MemoryError

    desk = a_desk(work)
    with caplog.at_level(logging.ERROR):
        asyncio.run(desk.start())
    assert "this could not be worked out" in desk.trouble.object
    assert not desk.strip.busy
    assert "MemoryError" in caplog.text


def test_work_that_does_not_look_is_dropped_when_it_is_given_up_and_the_next_begins_at_once() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def deaf() -> dict[str, Any]:
        begun.set()
        assert go_on.wait(10)
        return {"request": "old"}

    works = [deaf, lambda: {"request": "new"}]

    async def give_up_and_begin(desk: Desk) -> None:
        first = asyncio.create_task(desk.start())
        await asyncio.to_thread(begun.wait, 10)
        desk.following.give_up()
        await first
        assert "Cancelled" in desk.trouble.object
        assert (desk.again.visible, desk.strip.busy) == (True, False)
        await desk.start()
        assert json.loads(desk.strip.payload) == {"request": "new"}
        assert (desk.again.visible, desk.trouble.visible) == (False, False)
        go_on.set()

    asyncio.run(give_up_and_begin(a_desk(lambda: works.pop(0)())))


def test_the_end_of_the_server_cancels_what_is_followed() -> None:
    seen, go_on = threading.Event(), threading.Event()

    async def followed() -> None:
        following = Following("the pass")

        def work(cancel: threading.Event) -> None:
            if cancel.wait(10):
                seen.set()
            go_on.wait(10)

        task = asyncio.create_task(following.result(lambda cancel: DRAWINGS.submit(work, cancel)))
        await asyncio.sleep(0)
        cancel_all()
        with pytest.raises(Cancelled, match="the pass"):
            await task
        go_on.set()

    asyncio.run(followed())
    assert seen.wait(10)
