"""`wa-ingest tail`: what workers of a running pipeline handle, as they do; an application here may get a copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import click
import orjson

from ingest.settings import Settings, SettingsError, load, secrets
from ingest.telemetry.printable import printable
from workers.cli.terminal import as_json as json_option
from workers.cli.terminal import cli_errors, clock, current_settings, print_json, reached
from workers.destinations.destination import KINDS
from workers.destinations.posting import Session, naming

_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 30.0  # the receiver sends an empty line every five
_AGAIN_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_LINE_BYTES = 4 * 1024 * 1024  # more than a worker tells at a time
_WAITING = 20  # messages of workers that wait for the application
_REMEMBERED = 10_000  # events that were forwarded

_Told = dict[str, Any]


def _contacts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value.strip().removeprefix("+") for value in values)


def _url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.startswith(("http://", "https://")) and urlsplit(value).hostname):
        raise click.BadParameter(f"give an address such as {param.metavar}")
    return value


@click.command()
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Events of this kind.")
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Messages of this type, statuses or changes of this name."
)
@click.option("--business", metavar="ID", multiple=True, help="Events of this business number.")
@click.option("--contact", "contacts", metavar="NUMBER", multiple=True, callback=_contacts, help="wa_id or user id.")
@click.option(
    "--forward",
    metavar="http://localhost:3000/webhook",
    callback=_url,
    help="Post a copy of each event there, once, whatever the answer is.",
)
@click.option("--personal", is_flag=True, help="Show numbers, ids and what was written, too.")
@click.option(
    "--admin",
    metavar="http://127.0.0.1:9100",
    callback=_url,
    help="The receiver's admin listener [WA_ADMIN_LISTEN].",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the receiver's WA_ADMIN_TOKEN [WA_ADMIN_TOKEN].",
)
@json_option
def tail(
    kinds: tuple[str, ...],
    types: tuple[str, ...],
    business: tuple[str, ...],
    contacts: tuple[str, ...],
    forward: str | None,
    personal: bool,
    admin: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show what workers handle, as they do, until Ctrl-C; nothing of it is held up.

    A line for each event that has ended, each try of it: time, kind and type, business number, contact, outcome,
    milliseconds in handlers, handlers. Contacts are masked and nothing that they wrote is shown, unless you ask for it
    with --personal. A worker tells 200 events a second at most; how many more there were is shown.

    --forward posts each event as destinations get it (docs/destinations.md), once and unsigned, and shows the answer.
    What is owed does not depend on it. With --json: one JSON object a line, of at, kind, type, business, contact,
    handlers, outcome, error, ms, attempt, notification, event, with --forward answer (a status, or why there is none),
    with --personal id and body; or of dropped, a number of events that are not shown.
    """
    with cli_errors():
        settings = current_settings()
        address = (admin or f"http://{reached(*settings.admin_listen)}").rstrip("/")
        wanted = {
            "kinds": kinds,
            "types": types,
            "business": business,
            "contacts": contacts,
            "body": personal or forward is not None,
            "personal": personal,
        }
        shown = _Shown(forward, personal, as_json)
        token = _token(settings, token_file)
        with suppress(KeyboardInterrupt):
            asyncio.run(_listen(address, token, wanted, shown))


def _token(settings: Settings, file: Path | None) -> str:
    if file is not None:
        try:
            settings = load(admin_token=file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"--token-file: cannot read {file}: {reason}") from None
    found = secrets(settings.admin_token)
    if not found:
        raise SettingsError("WA_ADMIN_TOKEN is not set: give the receiver's, or a file that holds it with --token-file")
    return found[0].decode()


async def _listen(address: str, token: str, wanted: dict[str, Any], shown: _Shown) -> None:
    """Show events until interrupted. Raises ClickException when it is refused, or nobody answers at the beginning."""
    waiting, session = _Waiting(), Session()
    await session.open()
    reading = asyncio.create_task(_read(session.client, address, token, wanted, waiting))
    try:
        while True:
            next_one = asyncio.create_task(waiting.next())
            await asyncio.wait((reading, next_one), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                next_one.cancel()
                reading.result()
            await shown.show(session.client, next_one.result())
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await session.close()


class _Refused(click.ClickException):
    """The receiver does not let anybody listen; `for_now`: another time it may."""

    def __init__(self, text: str, for_now: bool) -> None:
        super().__init__(text)
        self.for_now = for_now


class _Waiting:
    """What workers told and is not shown yet. While the application is slow, events are counted instead of kept."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_Told] = asyncio.Queue(_WAITING)
        self._dropped = 0

    def put(self, told: _Told) -> None:
        if self._queue.full():
            self._dropped += len(told.get("events", ())) + told.get("dropped", 0)
        else:
            self._queue.put_nowait(told)

    async def next(self) -> _Told:
        told = await self._queue.get()
        dropped, self._dropped = self._dropped, 0
        return told | {"dropped": told.get("dropped", 0) + dropped} if dropped else told


async def _read(
    client: aiohttp.ClientSession, address: str, token: str, wanted: dict[str, Any], waiting: _Waiting
) -> None:
    was_there = False
    while True:
        try:
            async for told in _stream(client, address, token, wanted):
                if not was_there:
                    click.echo(f"listening at {address}, Ctrl-C ends", err=True)
                was_there = True
                if told:
                    waiting.put(told)
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
        waiting.put({"away": f"{address}: {why}; trying again"})
        await asyncio.sleep(_AGAIN_SECONDS)


async def _stream(
    client: aiohttp.ClientSession, address: str, token: str, wanted: dict[str, Any]
) -> AsyncIterator[_Told]:
    """What comes, an empty table for an empty line. Raises _Refused."""
    async with client.post(
        f"{address}/actions/tail",
        data=orjson.dumps(wanted),
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


class _Shown:
    """Prints events, and posts copies of them to `forward`."""

    def __init__(self, forward: str | None, personal: bool, as_json: bool) -> None:
        self._forward = forward
        self._personal = personal
        self._as_json = as_json
        self._forwarded: dict[str, None] = {}  # the newest last
        self._away = ""
        self._is_told = False

    async def show(self, client: aiohttp.ClientSession, told: _Told) -> None:
        """One message of a worker, or what the receiver says."""
        if (away := told.get("away", self._away)) != self._away:
            self._away = away
            click.echo(printable(away), err=True)
        if "worker" in told:
            self._away = ""
            if not self._is_told:
                click.echo("workers tell what they handle from now on", err=True)
            self._is_told = True
        for event in told.get("events", ()):
            if self._forward is not None and self._is_new(event["event"]):
                event["answer"] = await _post(client, self._forward, event)
            self._print(event)
        if dropped := told.get("dropped"):
            if self._as_json:
                print_json({"dropped": dropped}, indent=False)
            else:
                click.echo(f"… {dropped:,} more")

    def _is_new(self, identity: str) -> bool:
        """False for a further try of an event that was forwarded."""
        if identity in self._forwarded:
            return False
        self._forwarded[identity] = None
        if len(self._forwarded) > _REMEMBERED:
            del self._forwarded[next(iter(self._forwarded))]
        return True

    def _print(self, event: _Told) -> None:
        if not self._personal:
            event.pop("body", None)
        if self._as_json:
            print_json(event, indent=False)
            return
        click.echo(printable(_line(event)))
        if "body" in event:
            click.echo(f"          {printable(event['body'])}")


def _line(event: _Told) -> str:
    what = f"{event['kind']} {event['type'] or ''}"
    ended = f"{event['outcome']} (try {event['attempt']})" if event["attempt"] > 1 else event["outcome"]
    parts = [
        f"{clock(event['at']):8}  {what:20} {event['business'] or '-':16} {event['contact'] or '-':5}",
        f"{ended:10} {event['ms']:,.{0 if event['ms'] >= 10 else 1}f} ms",
        ", ".join(event["handlers"]),
        event["error"],
        f"→ {event['answer']}" if "answer" in event else "",
    ]
    return "  ".join(part for part in parts if part)


async def _post(client: aiohttp.ClientSession, url: str, event: _Told) -> int | str:
    """The status of the application's answer, or why there is none."""
    headers = naming(event["notification"], event["event"], event["attempt"])
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with client.post(
            url, data=event["body"].encode(), headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            return answer.status
    except TimeoutError:
        return f"no answer within {_ANSWER_SECONDS:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return f"not reached ({type(error).__name__})"
