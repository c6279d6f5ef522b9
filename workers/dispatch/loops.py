"""The loop on which handlers run, and what a user has called on it before the first event and after the last."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from ingest.loggers import get_logger
from workers.places import named

log = get_logger(__name__)

CANCEL_SECONDS = 1.0
"""What a task may take to end when the loop is closed."""

Hooks = Iterable[Callable[[], object]]


def new_loop(with_uvloop: bool, threads: int) -> asyncio.AbstractEventLoop:
    """A loop for handlers, with so many threads for `asyncio.to_thread`. Python's own does for plain handlers."""
    if with_uvloop:
        import uvloop  # only where it is needed

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(threads, "to_thread"))
    return loop


async def wait_for_tasks(left_out: Collection[asyncio.Task[object]], deadline: float) -> None:
    """Wait for all tasks on this loop but these, until `deadline` by the monotonic clock at most."""
    left = asyncio.all_tasks().difference(left_out) - {asyncio.current_task()}
    if left and (seconds := deadline - time.monotonic()) > 0:
        names = sorted({getattr(task.get_coro(), "__qualname__", "?") for task in left})
        log.info("waiting for background tasks of handlers", tasks=len(left), running=names[:10])
        await asyncio.wait(left, timeout=seconds)


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop in order, as `asyncio.Runner` does, but without waiting for what is stuck."""
    if loop.is_closed():
        return
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_SECONDS))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()  # not after `shutdown_default_executor`: that would wait for a thread that never ends


def start(loop: asyncio.AbstractEventLoop, startups: Hooks) -> None:
    """Call the user's `startup` functions. Raises what one of them raises."""
    for function in startups:
        loop.run_until_complete(_await(function))


def shut_down(loop: asyncio.AbstractEventLoop, shutdowns: Hooks) -> None:
    """Call the user's `shutdown` functions; what one of them raises is logged."""
    for function in shutdowns:
        try:
            loop.run_until_complete(_await(function))
        except Exception as error:
            log.error("shutdown failed", error=named(error))


async def _await(function: Callable[[], object]) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result
