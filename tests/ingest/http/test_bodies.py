"""Bodies that arrive: what happens to one must not happen to another."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

from ingest.http.answers import Refused
from ingest.http.bodies import Bodies, _Arrival
from ingest.settings import load


def test_making_room_when_the_oldest_has_just_run_out_of_time() -> None:
    """A body whose time is over at the moment in which it would be given up is no error for the one that needs room."""

    async def go() -> list[Any]:
        bodies = Bodies(load())
        loop = asyncio.get_running_loop()
        oldest = _Arrival(loop.time() - 10, 10)  # its time is over: the loop will say so in its next turn
        bodies._arrivals[oldest] = None
        errors: list[Any] = []

        def need_room() -> None:
            try:
                bodies._make_room()
            except Exception as error:
                errors.append(error)

        try:
            async with oldest.deadline:
                loop.call_soon(need_room)
                await asyncio.sleep(5)
        except TimeoutError:
            pass
        return [*errors, *bodies._arrivals]

    assert asyncio.run(go()) == []


def test_pending_is_bounded() -> None:
    """Memory for bodies is given up to WA_MAX_PENDING to the byte, and can be used again."""
    pending = Bodies(load(max_pending=100, max_body=100))._pending
    assert pending.reserve(60)
    assert not pending.reserve(41)
    assert pending.reserve(40)
    assert not pending.reserve(1)
    assert pending.reserve(0)
    pending.release(60)
    assert pending.reserve(60)
    assert pending.held == 100


class _Stalled:
    """A body of which a part arrives, and then nothing."""

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield b"x" * 80
        await asyncio.sleep(60)


def test_what_is_refused_is_free_at_once() -> None:
    """Memory of bodies that are given up, for want of room or of time, does not wait until Python looks for cycles."""

    async def go() -> list[int]:
        bodies = Bodies(load(max_pending=200, max_body=100, body_timeout="0.1s"))

        async def status(content: Any) -> int:
            try:
                await bodies._arrive(content)
            except Refused as refused:
                return refused.status
            return 200

        return sorted(await asyncio.gather(status(_Stalled()), status(_Stalled())))

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(go()) == [408, 503]
        assert [one for one in gc.get_objects() if isinstance(one, _Arrival)] == []
    finally:
        gc.enable()
