"""PyWa's handlers as they are, behind the pipeline.

    # bot.py
    from pywa import WhatsApp
    from workers.pywa import handlers_of

    wa = WhatsApp(phone_id="106540352242922", token="EAAGm0PX4ZCpsBA")

    @wa.on_message
    def echo(wa, message): ...

    handlers = handlers_of(wa)

Then `WA_HANDLERS=bot:handlers wa-ingest up`. PyWa takes the first element of a notification only, and swallows what its
callbacks raise. Here each event comes to it in a notification of its own, and what is raised counts: the event is tried
again, and becomes a dead letter at last.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from ingest.store.records import handler_digest
from workers.events import Event
from workers.handler import Handler
from workers.handlers import Handlers
from workers.raised import Reject

__all__ = ["handlers_of"]

_NAME = "pywa"
_OK = 200
_KINDS = ("message", "status", "error", "change", "call", "handover", "preference")


class Client(Protocol):
    """What is used of PyWa's client, plain or async (`pywa.WhatsApp`, `pywa_async.WhatsApp`)."""

    def webhook_update_handler(self, update: bytes) -> tuple[str, int] | Awaitable[tuple[str, int]]:
        """Documented for servers that PyWa does not know."""


def handlers_of(client: Client) -> Handlers:
    """A registry that gives each event to the callbacks of a PyWa client.

    Callbacks may raise Discard, Reject, RetryIn and Snooze, too. `wait_for_…` of PyWa does not work: what it waits for
    is the contact's next message, and that comes when the callback for this one has returned.
    """
    handle = client.webhook_update_handler

    def plain(event: Event) -> None:
        with _raising():
            found: Any = handle(_new(event.body()))
        _read(found)

    async def on_loop(event: Event) -> None:
        with _raising():
            found: Any = await handle(_new(event.body()))  # type: ignore[misc]
        _read(found)

    is_async = inspect.iscoroutinefunction(handle)
    handlers = Handlers()
    handlers.add(
        Handler(
            on_loop if is_async else plain,
            "event",
            frozenset(),
            is_async,
            _NAME,
            digest=handler_digest(_NAME),
            by_kind=dict.fromkeys(_KINDS, frozenset()),
        )
    )
    _watch()
    return handlers


_calls = itertools.count(1)
_raised: ContextVar[list[BaseException] | None] = ContextVar("raised", default=None)


def _new(body: bytes) -> bytes:
    """The same JSON in other bytes each time: PyWa drops a body that it has had, as it has one that is tried again."""
    return body + f"{next(_calls):b}".translate({ord("0"): " ", ord("1"): "\t"}).encode()


def _read(found: tuple[str, int]) -> None:
    text, status = found
    if status != _OK:
        raise Reject(f"PyWa does not know such a notification: {text}")


@contextmanager
def _raising() -> Iterator[None]:
    """Raise at the end what a callback has raised inside."""
    errors: list[BaseException] = []
    token = _raised.set(errors)
    try:
        yield
    finally:
        _raised.reset(token)
    if errors:
        raise errors[0]


class _Watch(logging.Filter):
    """Sees what PyWa logs with an exception: that is all it does with what a callback raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        errors = _raised.get()
        if errors is None or not record.exc_info or record.exc_info[1] is None:
            return True
        errors.append(record.exc_info[1])
        return False  # the worker logs it, without what it says of a contact


def _watch() -> None:
    for package in ("pywa", "pywa_async"):
        logger = logging.getLogger(f"{package}.server")
        logger.disabled = False
        if not logger.isEnabledFor(logging.ERROR):
            logger.setLevel(logging.ERROR)
        if not any(isinstance(one, _Watch) for one in logger.filters):
            logger.addFilter(_Watch())
