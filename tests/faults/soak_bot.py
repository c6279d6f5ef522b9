"""The bot of the soak: handlers that work, fail, are slow, leak, block the loop, or hang in C.

Each process writes a file of its own into the folder SEEN: [seconds since the epoch, process, what, id], a line each.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time
from pathlib import Path

from workers import Handlers, Message, Status

handlers = Handlers()
_out = os.open(Path(os.environ["SEEN"], str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_libc = ctypes.CDLL(None)


def _note(what: str, id: str | None) -> None:
    os.write(_out, json.dumps([time.time(), os.getpid(), what, id]).encode() + b"\n")


def _hang() -> None:
    """A call in C that no signal ends, as of a database's library; other threads run meanwhile."""
    mutex = ctypes.create_string_buffer(64)
    _libc.pthread_mutex_lock(mutex)
    _libc.pthread_mutex_lock(mutex)


class _Node:
    other: _Node
    data: bytearray


@handlers.message("text")
@handlers.status("delivered")
async def works(event: Message | Status) -> None:
    await asyncio.sleep(0.01)
    _note("handled", event.id)


@handlers.message("image")
@handlers.status("read")
def works_in_a_thread(event: Message | Status) -> None:
    time.sleep(0.01)
    _note("handled", event.id)


@handlers.message("location")
def fails(message: Message) -> None:
    # Not every event: a handler that always fails is tried with one from time to time, whose tries do not count.
    if message.attempt <= 2 and int(str(message.id)) % 2:
        raise ValueError("the first two tries fail")
    _note("handled", message.id)


@handlers.message("audio")
async def is_slow(message: Message) -> None:
    await asyncio.sleep(1)
    _note("handled", message.id)


@handlers.message("document")
def leaks(message: Message) -> None:
    one, other = _Node(), _Node()
    one.other, other.other, one.data = other, one, bytearray(b"x") * 1_000_000
    _note("handled", message.id)


@handlers.message("sticker")
async def blocks(message: Message) -> None:
    if message.attempt == 1:
        _note("blocks", message.id)
        time.sleep(30)  # noqa: ASYNC251 - that is its fault
    _note("handled", message.id)


@handlers.message("contacts")
def hangs_in_a_thread(message: Message) -> None:
    if message.attempt == 1:
        _note("hangs_in_a_thread", message.id)
        _hang()
    _note("handled", message.id)


@handlers.message("button")
async def hangs_on_the_loop(message: Message) -> None:
    if message.attempt == 1:
        _note("hangs_on_the_loop", message.id)
        _hang()
    _note("handled", message.id)
