"""`wa-ingest tail`: what workers of a running pipeline handle, as they do; an application here may get a copy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import click

from ingest.settings import Settings, SettingsError, load, secrets
from ingest.state.listeners import Wanted
from ingest.store import local
from ingest.telemetry.printable import printable
from ingest.terminal import aside
from workers.cli import hearing
from workers.cli.event_lines import EventLines, Told
from workers.cli.terminal import as_json as json_option
from workers.cli.terminal import cli_errors, current_settings, print_json, reached
from workers.destinations.destination import KINDS
from workers.destinations.posting import Session, naming
from workers.destinations.reaching import why

_ANSWER_SECONDS = 10.0
_WAITING = 20  # messages of workers that wait for the application
_REMEMBERED = 10_000  # events that were forwarded

_Hear = Callable[[aiohttp.ClientSession, hearing.Put], Awaitable[None]]


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
    """Show events as workers handle them, until Ctrl-C; it holds up none of them.

    Beside an `up` with a server of its own, in its folder, it needs no settings; else it asks the admin listener of a
    receiver, with its WA_ADMIN_TOKEN.

    A line for each event that has ended, each try of it: time, kind and type, contact, outcome, milliseconds in
    handlers, handlers, business number (where there is room for it); names of handlers and errors that do not fit
    stand below. Contacts are masked and nothing that they wrote
    is shown, unless you ask for it with --personal. A worker tells 200 events a second at most; how many more there
    were is shown.

    --forward posts each event as destinations get it (docs/destinations.md), once and unsigned, and shows the answer.
    What is owed does not depend on it. With --json: one JSON object a line, of at, kind, type, business, contact,
    handlers, outcome, error, ms, attempt, notification, event; where there are any, failed (the handlers that failed,
    each with its error) and waits_for (those that always fail, lag or are paused, and were not called); with --forward
    answer (a status, or why there is none), with --personal id and body; or of dropped, a number of events that are not
    shown.
    """
    with cli_errors():
        settings = current_settings()
        wanted = Wanted(kinds, types, business, contacts, personal or forward is not None, personal)
        shown = _Shown(forward, personal, as_json)
        hear = _source(settings, admin, token_file, wanted)
        with suppress(KeyboardInterrupt):
            asyncio.run(_listen(hear, shown))


def _source(settings: Settings, admin: str | None, token_file: Path | None, wanted: Wanted) -> _Hear:
    """Whom to listen to: the receiver that is named, or else the server of an `up` in this folder. SettingsError."""
    named = (admin, token_file, settings.admin_token, settings.redis_url)
    if (beside := local.running()) and not any(named):
        aside("listening to the `up` in this folder, Ctrl-C ends")
        return lambda _, put: hearing.from_redis(beside, wanted, put)
    address = (admin or f"http://{reached(*settings.admin_listen)}").rstrip("/")
    token = _token(settings, token_file)
    return lambda client, put: hearing.from_receiver(client, address, token, wanted, put)


def _token(settings: Settings, file: Path | None) -> str:
    if file is not None:
        try:
            settings = load(admin_token=file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"--token-file: cannot read {file}: {reason}") from None
    found = secrets(settings.admin_token)
    if not found:
        raise SettingsError(
            "WA_ADMIN_TOKEN is not set: give the receiver's, or a file that holds it with --token-file; without it you "
            "can listen to an `up` with a server of its own, and none runs in this folder"
        )
    return found[0].decode()


async def _listen(hear: _Hear, shown: _Shown) -> None:
    """Show events until interrupted. Raises what `hear` raises."""
    waiting, session = _Waiting(), Session()
    await session.open()
    reading = asyncio.ensure_future(hear(session.client, waiting.put))
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


class _Waiting:
    """What workers told and is not shown yet. While the application is slow, events are counted instead of kept."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Told] = asyncio.Queue(_WAITING)
        self._dropped = 0

    def put(self, told: Told) -> None:
        if self._queue.full():
            self._dropped += len(told.get("events", ())) + told.get("dropped", 0)
        else:
            self._queue.put_nowait(told)

    async def next(self) -> Told:
        told = await self._queue.get()
        dropped, self._dropped = self._dropped, 0
        return told | {"dropped": told.get("dropped", 0) + dropped} if dropped else told


class _Shown:
    """Prints events, and posts copies of them to `forward`."""

    def __init__(self, forward: str | None, personal: bool, as_json: bool) -> None:
        self._forward = forward
        self._personal = personal
        self._as_json = as_json
        self._lines = EventLines()
        self._forwarded: dict[str, None] = {}  # the newest last
        self._away = ""
        self._is_told = False

    async def show(self, client: aiohttp.ClientSession, told: Told) -> None:
        """One message of a worker, or what the receiver says."""
        if (away := told.get("away", self._away)) != self._away:
            self._away = away
            aside(printable(away))
        if again := told.get("again"):
            aside(f"{printable(again)}: listening again")
        if "worker" in told or again:
            self._away = ""
            if not self._is_told:
                aside("workers tell what they handle from now on")
            self._is_told = True
        for event in told.get("events", ()):
            if self._forward is not None and self._is_new(event["event"]):
                event["answer"] = await _post(client, self._forward, event)
            self._print(event)
        if dropped := told.get("dropped"):
            if self._as_json:
                print_json({"dropped": dropped}, indent=False)
            else:
                self._lines.more(dropped)

    def _is_new(self, identity: str) -> bool:
        """False for a further try of an event that was forwarded."""
        if identity in self._forwarded:
            return False
        self._forwarded[identity] = None
        if len(self._forwarded) > _REMEMBERED:
            del self._forwarded[next(iter(self._forwarded))]
        return True

    def _print(self, event: Told) -> None:
        if not self._personal:
            event.pop("body", None)
        if self._as_json:
            print_json(event, indent=False)
        else:
            self._lines.show(event)


async def _post(client: aiohttp.ClientSession, url: str, event: Told) -> int | str:
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
        return f"not reached: {why(error, url)}"
