"""What workers tell those who listen: from the admin listener of a receiver, or from the Redis of an `up` beside us."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import aiohttp
import click
import orjson

from ingest.state.following import follow
from ingest.state.listeners import Wanted
from ingest.telemetry.printable import printable
from ingest.terminal import aside
from workers.cli.event_lines import Told
from workers.cli.terminal import diagnose

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0  # the receiver sends an empty line every five
_AGAIN_SECONDS = 1.0
_LINE_BYTES = 4 * 1024 * 1024  # more than a worker tells at a time

Put = Callable[[Told], None]


async def from_redis(url: str, wanted: Wanted, put: Put) -> None:
    """Put what workers tell, until cancelled."""
    await follow(url, secrets.token_hex(8), wanted, lambda line: put(orjson.loads(line)), diagnose)


class _Refused(click.ClickException):
    """The receiver does not let anybody listen; `for_now`: another time it may."""

    def __init__(self, text: str, for_now: bool) -> None:
        super().__init__(text)
        self.for_now = for_now


async def from_receiver(client: aiohttp.ClientSession, address: str, token: str, wanted: Wanted, put: Put) -> None:
    """The same, of the receiver whose admin listener has that address.

    Raises ClickException when it refuses, or nobody answers at the beginning.
    """
    was_there = False
    while True:
        try:
            async for told in _stream(client, address, token, wanted):
                if not was_there:
                    aside(f"listening at {address}, Ctrl-C ends")
                was_there = True
                if told:
                    put(told)
            why = "the stream has ended"
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            why = str(error) or "no answer"
        except _Refused as refused:  # a receiver that stops, or a proxy in front of none
            if not (was_there and refused.for_now):
                raise
            why = refused.message
        if not was_there:
            raise click.ClickException(
                f"no receiver answers at {address}: {why}; give its admin listener (WA_ADMIN_LISTEN) with --admin"
            )
        put({"away": f"{address}: {why}; trying again"})
        await asyncio.sleep(_AGAIN_SECONDS)


async def _stream(client: aiohttp.ClientSession, address: str, token: str, wanted: Wanted) -> AsyncIterator[Told]:
    """What comes, an empty table for an empty line. Raises _Refused."""
    async with client.post(
        f"{address}/actions/tail",
        data=orjson.dumps(wanted._asdict()),
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS),
        read_bufsize=_LINE_BYTES,
        allow_redirects=False,
    ) as answer:
        if answer.status != 200:
            reason = _reason(answer.status, await answer.read())
            raise _Refused(f"{address} refuses: {reason}", for_now=answer.status >= 500)
        async for line in answer.content:
            yield orjson.loads(line) if line.strip() else {}


def _reason(status: int, body: bytes) -> str:
    if status == 404:
        return "it has nothing to listen to; is it the admin listener of a receiver of this version?"
    try:
        said = str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = body[:200].decode("utf-8", "replace").strip() or f"it answers {status}"
    return printable(said)
