"""Answers every text message, once.

    WA_HANDLERS=examples.autoreply:handlers wa-ingest up

Without a token it prints what it would send. With one it sends: REPLY_TOKEN, or REPLY_TOKEN_FILE with the path of a
file that holds it; Cloud messages are answered through GRAPH_API (https://graph.facebook.com/v24.0), On-Premises ones
through ONPREM_API (such as https://coreapp:9090/v1).

A handler may see a message again, when its worker died or Redis went away, and the API has no key by which it would
drop a second reply. So there are two ways. Send, then remember (at least once): the contact may get a reply twice.
Remember, then send (at most once): a reply may be missing. This is at most once; messages whose reply is in doubt
become dead letters (`rejected`). For at least once instead, let `_claim` take a claim that is SENDING.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from redis.asyncio import Redis

from ingest.settings import load, redis_url
from ingest.store import connection, keys
from ingest.telemetry.printable import printable
from workers import Handlers, Message, Reject, RetryIn

handlers = Handlers()

TEXT = "Thank you for your message. We will answer soon."

SENDING, SENT = b"sending", b"sent"
REMEMBERED = 8 * 86400
"""Seconds; senders repeat a notification for up to seven days."""

AGAIN = 30.0
"""Seconds until the next try when the API has too much to do and does not say how long to wait."""


class Shared(NamedTuple):
    """What the handlers of a process share."""

    session: aiohttp.ClientSession
    redis: Redis


async def _open() -> AsyncIterator[Shared]:
    # A generator, because the worker's event loop ends those that are open when it is closed.
    timeout = aiohttp.ClientTimeout(total=15)  # less than WA_HANDLER_TIMEOUT
    async with aiohttp.ClientSession(timeout=timeout) as session, connection.for_receiver(redis_url(load())) as redis:
        while True:
            yield Shared(session, redis)


_shared = _open()


@handlers.message("text")
async def reply(message: Message) -> None:
    token = _secret("REPLY_TOKEN")
    if token is None:
        print(printable(f"would send to {message.sender}: {TEXT}"), flush=True)
        return
    if message.id is None:
        raise Reject("a message without an id cannot be answered once")
    shared = await anext(_shared)
    key = keys.example_key(f"autoreply:{sha256(message.id.encode()).hexdigest()}")
    if await _claim(shared.redis, key):
        await _send(shared, key, token, message)


async def _claim(redis: Redis, key: str) -> bool:
    """Whether this message is ours to answer now; False when it was answered."""
    if await redis.set(key, SENDING, nx=True, ex=REMEMBERED):
        return True
    if await redis.get(key) == SENT:
        return False
    raise Reject("an earlier try ended without an answer: the reply may have been sent")


async def _send(shared: Shared, key: str, token: str, message: Message) -> None:
    url, body = _request(message)
    try:
        async with shared.session.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
            status, retry_after = answer.status, answer.headers.get("Retry-After", "")
    except aiohttp.ClientConnectorError:  # nothing was sent
        await shared.redis.delete(key)
        raise RetryIn(AGAIN) from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Reject(f"no answer ({type(error).__name__}): the reply may have been sent") from None
    if status < 300:
        await shared.redis.set(key, SENT, ex=REMEMBERED)
        return
    await shared.redis.delete(key)  # it was refused: another try may send
    if status == 429 or status >= 500:
        raise RetryIn(float(retry_after) if retry_after.isdecimal() else AGAIN)
    raise Reject(f"the API answers {status}")  # its text may quote the number


def _request(message: Message) -> tuple[str, dict[str, Any]]:
    """Where to, and what. Sources: "messages" in the documentation of the Cloud API and of the On-Premises API."""
    text = {"recipient_type": "individual", "to": message.sender, "type": "text", "text": {"body": TEXT}}
    if message.source == "onprem":
        base = os.environ.get("ONPREM_API")
        if not base:
            raise Reject("ONPREM_API is not set")
        return f"{base}/messages", text
    base = os.environ.get("GRAPH_API", "https://graph.facebook.com/v24.0")
    quoted = {"messaging_product": "whatsapp", "context": {"message_id": message.id}}
    return f"{base}/{message.business}/messages", quoted | text


def _secret(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    return Path(path).read_text().strip() if path else os.environ.get(name)
