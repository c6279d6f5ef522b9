"""The handlers, and the pool of connections that they share in a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import orjson

from workers import Event, Handlers, Message, PartialFailure, Reject, Status

handlers = Handlers()

STATES = ("sent", "delivered", "failed", "read", "played")
"""In the order of the type `delivery_state`."""

LISTS = 4
"""Lists at a time, of each handler: while one waits for the disk of the database, the next one is under way."""

SECONDS = 20
"""For a statement: less than WA_HANDLER_TIMEOUT, so that the server ends it."""

AnEvent = TypeVar("AnEvent", bound=Event)

_STATUSES, _MESSAGES = (Path(__file__).with_name(f"{name}.sql").read_text() for name in ("statuses", "messages"))
_pools: list[asyncpg.Pool] = []  # of this process: one, while it works


@handlers.startup
async def open_pool() -> None:
    """Open the pool. It connects when a connection is needed, so the database may be away, now or later."""
    pool = await asyncpg.create_pool(
        os.environ.get("DATABASE_URL"), min_size=0, max_size=2 * LISTS, timeout=5, command_timeout=SECONDS
    )
    _pools.append(pool)


@handlers.shutdown
async def close_pool() -> None:
    await _pools.pop().close()


@handlers.status(*STATES, bulk=500, linger=0.2, concurrency=LISTS)
async def record_statuses(statuses: list[Status]) -> None:
    await _execute(_STATUSES, [_delivery(status) for status in statuses if status.id])
    _refuse(statuses)


@handlers.message(direction="both", bulk=500, linger=0.2, concurrency=LISTS)
async def record_messages(messages: list[Message]) -> None:
    await _execute(_MESSAGES, [_message(message) for message in messages if message.id])
    _refuse(messages)


async def _execute(statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """One statement for all rows, a column at a time. What it raises fails the list, which is tried again: that does no
    harm, whether the statement was carried out or not.
    """
    if rows:
        await _pools[0].execute(statement, *map(list, zip(*rows, strict=True)))


def _refuse(events: Iterable[AnEvent]) -> None:
    """Make dead letters of those without an id; the others are handled."""
    if nameless := {event: Reject("it has no id") for event in events if not event.id}:
        raise PartialFailure(nameless)


def _delivery(status: Status) -> tuple[Any, ...]:
    at = status.timestamp or status.received_at
    code = next((error.code for error in status.errors), None)
    names = (status.id, status.participant or "", status.business, status.recipient)
    return (*map(_text, names), status.status, at, code)


def _message(message: Message) -> tuple[Any, ...]:
    words = (message.id, message.business, message.contact_id, message.direction, message.type, message.text)
    raw = orjson.dumps(message.raw).decode()
    return (*map(_text, words), _text(message.reply_to), message.timestamp, message.received_at, raw)


def _text(value: str | None) -> str | None:
    """PostgreSQL's text holds everything but NUL, which contacts can send."""
    return value.replace("\0", "\ufffd") if value and "\0" in value else value
