"""One process of the pipeline that waits at one step of its work, so that a test can end it exactly there.

`python -c "from tests.faults.paused import main; main()" receiver|worker` runs the real `main` of that process after it
has wrapped the function at the step that PAUSE names. At the PAUSE_NTH time it writes a byte to the descriptor REACHED
and blocks until it reads one from GO: nothing of its main thread goes on meanwhile. Production code has no hook for it.

This is also the handlers module of those workers: it writes down what it handles.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import sys
import time
from typing import Any

RECEIVER_STEPS = ("body read", "before commit", "commit sent", "committed")
WORKER_STEPS = (
    "before take",
    "taken",
    "before claim",
    "claimed",
    "in a handler",
    "handler returned",
    "before settle",
    "settle sent",
    "settled",
)
HANDLER_SECONDS = 0.012
ASYNC_HANDLER_SECONDS = 0.08  # ten at a time

_times = 0
_in_call = False


def here(step: str) -> None:
    """Wait, when this is the step and the time."""
    global _times
    if os.environ.get("PAUSE") != step:
        return
    _times += 1
    if _times == int(os.environ["PAUSE_NTH"]):
        os.write(int(os.environ["REACHED"]), b"!")
        os.read(int(os.environ["GO"]), 1)


def _wrap(owner: Any, name: str, before: str | None = None, after: str | None = None) -> None:
    """Put a step before or after each call of a function."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def call(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            here(before)
        result = real(*arguments, **options)
        if after is not None:
            here(after)
        return result

    setattr(owner, name, call)


def prepare_receiver() -> None:
    """The steps of a receiver."""
    from redis.asyncio.connection import AbstractConnection

    from ingest.commit.redis_writer import RedisWriter
    from ingest.http.bodies import Bodies

    read, call, send = Bodies.read, RedisWriter._call, AbstractConnection.send_packed_command

    async def read_body(self: Bodies, request: Any) -> bytes:
        body = await read(self, request)
        here("body read")
        return body

    async def _call(self: RedisWriter, args: list[Any]) -> str | None:
        global _in_call
        here("before commit")
        _in_call = True
        try:
            reason = await call(self, args)
        finally:
            _in_call = False
        here("committed")
        return reason

    async def send_packed_command(self: Any, *arguments: Any, **options: Any) -> None:
        await send(self, *arguments, **options)
        if _in_call:
            while self._writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - uvloop writes at a turn's end
                await asyncio.sleep(0)
            here("commit sent")

    Bodies.read, RedisWriter._call = read_body, _call  # type: ignore[method-assign]
    AbstractConnection.send_packed_command = send_packed_command  # type: ignore[method-assign]


def prepare_worker() -> None:
    """The steps of a worker. The settle at a batch's end goes out with the next take: `ingest.store.pipelined`."""
    from ingest.store.pipelined import PipelinedConnection
    from workers.engine.batch import Runner
    from workers.engine.batch_state import BatchState
    from workers.engine.claims import Claims
    from workers.engine.queue import BatchQueue

    dequeue, settle, settled, transmit = (
        BatchQueue.dequeue_any,
        Runner._settle,
        Runner._settled,
        PipelinedConnection._transmit,
    )
    wanted = os.environ.get("PAUSE_SETTLE")

    def dequeue_any(*arguments: Any, **options: Any) -> Any:
        here("before take")
        taken = dequeue(*arguments, **options)
        if taken is not None:
            here("taken")
        return taken

    def _settle(self: Runner, opened: BatchState, how: str, may_wait: bool = False) -> str:
        global _in_call
        if how != wanted:
            return settle(self, opened, how, may_wait)
        here("before settle")
        _in_call = True
        reply = settle(self, opened, how, may_wait)
        if not self._consumer.settling:
            here("settled")
        return reply

    def _settled(self: Runner, *arguments: Any) -> None:
        settled(self, *arguments)
        if wanted == "end":
            here("settled")

    def _transmit(self: PipelinedConnection, calls: Any) -> None:
        global _in_call
        transmit(self, calls)
        if _in_call:
            _in_call = False
            here("settle sent")

    BatchQueue.dequeue_any = dequeue_any  # type: ignore[method-assign]
    Runner._settle, Runner._settled = _settle, _settled  # type: ignore[method-assign]
    PipelinedConnection._transmit = _transmit  # type: ignore[method-assign]
    _wrap(Claims, "take", before="before claim", after="claimed")
    _wrap(BatchState, "finish", before="handler returned")


def make_handlers() -> Any:
    """Handlers that take a few milliseconds and then write one line: begin, end, process, id of the event."""
    from workers import Handlers

    made = Handlers()
    out = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(began: float, id: str) -> None:
        os.write(out, json.dumps([began, time.monotonic(), os.getpid(), id]).encode() + b"\n")

    def handle(event: Any) -> None:
        began = time.monotonic()
        time.sleep(random.random() * HANDLER_SECONDS)
        here("in a handler")
        note(began, event.id)

    async def handle_async(event: Any) -> None:
        began = time.monotonic()
        await asyncio.sleep(random.random() * ASYNC_HANDLER_SECONDS)
        here("in a handler")
        note(began, event.id)

    chosen = handle_async if os.environ["HANDLER"] == "async" else handle
    made.message()(chosen)
    made.status()(chosen)
    return made


def main() -> None:
    """Run the real process, with its steps wrapped."""
    if sys.argv[1] == "receiver":
        prepare_receiver()
        from ingest.server import main as real
    else:
        prepare_worker()
        from workers.engine.worker import main as real
    real()


if "HANDLER" in os.environ:
    handlers = make_handlers()
