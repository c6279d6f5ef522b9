"""One Redis: the call of write.lua, confirmed as WA_DURABILITY asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from ingest.settings import Settings
from ingest.spool.fallback import FULL
from ingest.store import connection, formats, keys, scripts
from ingest.store.append import APPEND_KEYS, append_arguments, append_head, flush_ids
from ingest.store.jobs import job_template
from ingest.store.links import GENERATION_SECONDS, Links
from ingest.telemetry.outage import Outage

WAIT_MS = 1500
"""How long WAIT and WAITAOF may take; below the client's command time-out, so that the answer is always read."""

Records = Mapping[str, list[bytes]]
"""Packed records by queue."""

_Confirmation = tuple[str, int, *tuple[int, ...]]


class RedisWriter:
    """Writes packed records into one Redis, with new ones of the links that its receiver knows.

    `outage` logs when that fails and when it works again.
    """

    def __init__(self, redis: Redis, settings: Settings, outage: Outage, links: Links | None = None) -> None:
        self._links = links or Links()
        self._outbox = self._links.outbox()
        self._redis = redis
        self._outage = outage
        self._template, self._batch = job_template(), settings.batch
        self._confirm = _confirmation(settings.durability)
        self._script = scripts.lua(__file__, "write.lua")
        self._sha = ""
        self._names = flush_ids()

    async def write(
        self,
        records_by_queue: Records,
        unknown: Iterable[bytes] = (),
        again: Callable[[], Records] | None = None,
        call: str = "",
    ) -> str | None:
        """None when they are durable, else the reason. One round trip. See `ingest.spool.fallback.Writer`.

        If Redis has links of user ids that are `unknown` here, it takes only what `again` returns, when they are known:
        a second round trip. Without `again` it takes the records as they are.
        """
        head = append_head(call or next(self._names), self._template, self._batch)
        try:
            found, reason = await self._send(head, records_by_queue, unknown, hold=again is not None)
            if found and again:
                _, reason = await self._send(head, await asyncio.to_thread(again))
        except (RedisError, OSError, RuntimeError, formats.NewerFormat) as error:  # RuntimeError: uvloop, just closed
            reason = _why(error)
        self._outage.report(reason)
        return reason

    async def probe(self) -> str | None:
        """Why nothing could be written at this moment, or None. Calls write.lua without records."""
        return await self.write({})

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _send(
        self, head: list[Any], records: Records, unknown: Iterable[bytes] = (), hold: bool = False
    ) -> tuple[bytes, str | None]:
        """The links that Redis has of `unknown` ones, and None or why the records are not durable."""
        fresh, generation = self._outbox.next(), int(time.time() // GENERATION_SECONDS)
        args = append_arguments([*head], records)
        args += (fresh, b"".join(unknown), int(hold), (generation + 2) * GENERATION_SECONDS)
        links = (keys.links_key(generation), keys.links_key(generation - 1))
        found, reason = await self._call([len(APPEND_KEYS) + len(links), *APPEND_KEYS, *links, *args])
        if found:
            self._links.told(found)
        if fresh and reason is None and not (found and hold):
            self._outbox.sent(fresh)
        return found, reason

    async def _call(self, args: list[Any]) -> tuple[bytes, str | None]:
        command = ("EVALSHA", self._sha, *args)
        try:
            if self._confirm is None:
                return await self._redis.execute_command(*command), None  # type: ignore[no-untyped-call]
            # WAIT and WAITAOF cover only writes of their own connection. One pipeline, one round trip.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.execute_command(*command)
                pipe.execute_command(*self._confirm)
                # Not raise_on_error: redis-py would quote the command, and so the bodies, in the message.
                results = await pipe.execute(raise_on_error=False)
            for result in results:
                if isinstance(result, Exception):
                    raise result
        except NoScriptError:  # Redis was restarted, or this is the first call
            if not self._sha:  # a receiver that has once written there goes on
                await formats.agree_async(self._redis)
            self._sha = await self._redis.script_load(self._script)
            return await self._call(args)
        return results[0], _shortfall(self._confirm, results[1])


def _confirmation(durability: str) -> _Confirmation | None:
    """The command that confirms a write; its second word is the number that must be reached."""
    if durability == "fsync":
        return ("WAITAOF", 1, 0, WAIT_MS)
    if durability.startswith("replicas:"):
        return ("WAIT", int(durability.removeprefix("replicas:")), WAIT_MS)
    return None


def _shortfall(confirm: _Confirmation, answer: Any) -> str | None:
    """How far the confirmation falls short, or None."""
    name, wanted = confirm[:2]
    reached = answer[0] if isinstance(answer, list) else answer
    return None if reached >= wanted else f"{name} reached {reached} of {wanted}"


def _why(error: Exception) -> str:
    """The reason for an error, which never quotes a body."""
    if isinstance(error, formats.NewerFormat):
        return str(error)
    if wrong := connection.config_error(error):
        return str(wrong)
    if isinstance(error, OutOfMemoryError):
        return f"{FULL}: {error}"
    if isinstance(error, ResponseError) or connection.refuses(error):
        return f"Redis refuses: {error}"
    return f"Redis is away: {type(error).__name__}"
