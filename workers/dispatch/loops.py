"""The loop on which handlers run, and what a user has called on it before the first event and after the last."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable

from ingest.loggers import get_logger
from workers.dispatch import outcomes

log = get_logger(__name__)

Hooks = Iterable[Callable[[], object]]


def new_loop(with_uvloop: bool) -> asyncio.AbstractEventLoop:
    """A loop for handlers: uvloop's, or Python's own, which is fast enough where no handler is async."""
    if not with_uvloop:
        return asyncio.new_event_loop()
    import uvloop  # only where it is needed

    return uvloop.new_event_loop()


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop in order, as `asyncio.Runner` does."""
    if loop.is_closed():
        return
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


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
            log.error("shutdown failed", error=f"{type(error).__name__} at {outcomes.place(error)}")


async def _await(function: Callable[[], object]) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result
