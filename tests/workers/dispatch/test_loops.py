"""The loop of the handlers: which one it is, and what users may do to it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers import Handlers, testing
from workers.dispatch.loops import new_loop

NESTED = """
import asyncio, os
import nest_asyncio2
from workers import Handlers
handlers = Handlers()
handlers.startup(nest_asyncio2.apply)

async def think(text):
    await asyncio.sleep(0.01)
    return text.upper()

@handlers.message()
async def answer(message):
    os.write(1, f"thought {asyncio.run(think(message.text))}\\n".encode())  # print writes its words one by one

@handlers.message()
def plain(message):
    os.write(1, f"plain {asyncio.run(think(message.text))}\\n".encode())
"""


@pytest.mark.parametrize("with_uvloop", [True, False])
def test_kind(with_uvloop: bool) -> None:
    """It is uvloop's, or one of Python's own, whose class libraries look for."""
    loop = new_loop(with_uvloop, threads=4)
    assert isinstance(loop, asyncio.BaseEventLoop) != with_uvloop
    loop.close()


def test_a_loop_within_a_loop(
    run_module: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    commit: Callable[..., None],
    message: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With WA_LOOP=asyncio, handlers may patch the loop as nest_asyncio does, and all goes on."""
    (tmp_path / "bot.py").write_text(NESTED)
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
    monkeypatch.setenv("WA_LOOP", "asyncio")
    commit(*[message(f"m{n}", sender=f"1555000{n}") for n in range(5)], batch=1)
    process = run_module("workers.engine.worker", "--burst", cwd=tmp_path)
    status = process.wait(60)
    assert process.stdout is not None
    out = process.stdout.read()
    assert status == 0, out
    assert (out.count("thought HELLO"), out.count("plain HELLO")) == (5, 5), out
    assert "failed" not in out


def test_calls_of_a_test_run_on_the_same_kind(monkeypatch: pytest.MonkeyPatch, message: Callable[..., bytes]) -> None:
    """`workers.testing.call` heeds WA_LOOP, as a worker does."""
    handlers = Handlers()
    loops: list[Any] = []

    @handlers.message()
    async def answer(event: Any) -> None:
        loops.append(asyncio.get_running_loop())

    monkeypatch.setenv("WA_LOOP", "asyncio")
    monkeypatch.setattr(testing, "_loop", testing._loop.__wrapped__)
    assert testing.call(handlers, message())[0].outcome == "handled"
    assert isinstance(loops[0], asyncio.BaseEventLoop)
