"""`wa-ingest retry`: what waits for its next try is tried now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import click
from redis import Redis

from ingest.settings import Settings
from ingest.state import backlog, controls, next_tries
from ingest.store import keys
from ingest.store.queues import LANES, Member
from ingest.store.records import unpack
from ingest.telemetry.printable import printable
from ingest.terminal import say
from workers import doubts, loading
from workers.cli.terminal import as_json, cli_errors, current_settings, print_json, redis_clients
from workers.events import Broken
from workers.events.parsing import parse
from workers.handlers import Handlers
from workers.raised import HandlersError


@click.command()
@click.option("--handler", metavar="NAME", help="Only batches with an event that this handler or destination wants.")
@as_json
def retry(handler: str | None, as_json: bool) -> None:
    """Try now what waits for its next try.

    For when what the handlers need works again, and you do not want to wait: after some failures an event waits for up
    to an hour. No try is used up by this; those that fail again use one up. Workers take the events in order of
    arrival, before newer ones. Of a handler that always fails one event is tried at once: if that succeeds, all that
    waits for it follows; if not, it waits on, and no try is used up. `wa-ingest tail --personal`, started before, shows
    which events they are.

    With --handler, only batches with events that this handler or destination wants and has not handled; what waits in
    the same batch for the same moment is tried, too. For this WA_HANDLERS must be importable here.
    """
    with cli_errors():
        settings = current_settings(to_write=True)
        registry = _registry(settings, handler) if handler is not None else None
        clients = redis_clients(settings, to_write=True)
        due = Counter[str]()
        for redis in clients.values():
            batches = next_tries.waiting(redis)
            if registry is not None and handler is not None:
                batches = [one for one in batches if _has_some(redis, one, registry, handler)]
            due += next_tries.make_due(redis, batches)
        now = backlog.read_all(clients)
        broken = [one for one in now.broken if handler in (None, one.handler)]
        for redis in clients.values():
            for one in broken:
                controls.try_now(redis, one.handler)
        if as_json:
            print_json({"events": due.total(), "lanes": {lane: due[lane] for lane in LANES}})
            return
        paused = {steered.handler for steered in now.steered if steered.paused_since}
        for one in broken:
            name = printable(one.handler)
            if one.handler in paused:
                say(f"{name} is paused, so it is not tried: `wa-ingest resume --handler {name}`.")
                continue
            say(f"{name} always fails: it is tried now; if that succeeds, the rest follows.")
            say("If not, all of it waits on, and no try is used up.")
        if not due.total():
            if not broken:
                say(f"Nothing waits for its next try{f' by {printable(handler)}' if handler else ''}.")
            return
        lanes = [lane for lane in LANES if due[lane]]
        each = ", ".join(f"{lane} {due[lane]:,}" for lane in lanes)
        waiting = sum(now.lanes[lane].waiting for lane in lanes)
        say(f"Due now: {each}.{f' In all, {waiting:,} wait there.' if waiting > due.total() else ''}")
        fails = "what fails of other handlers uses" if broken else "those that fail again use"
        say(f"Workers try them in order of arrival; {fails} up a try.")
        for line in _in_the_way(now, lanes, handler):
            say(line)


def _registry(settings: Settings, handler: str) -> Handlers:
    """The handlers, of which one has this name."""
    try:
        found = loading.load_all(settings.handlers, settings.destinations)
    except HandlersError as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:
        raise click.ClickException(loading.explain(settings.handlers, error)) from None
    names = {one.name for one in found.registered}
    if handler not in names:
        close = doubts.meant(handler, names)
        raise click.ClickException(f"no handler is named {handler!r}, see `wa-ingest handlers`{close}")
    return found


def _has_some(redis: Redis, batch: Member, registry: Handlers, handler: str) -> bool:
    records: Any = redis.lrange(keys.batch_key(batch.batch), 0, -1)
    return any(_wants(record, registry, handler) for record in records)


def _wants(packed: bytes, registry: Handlers, handler: str) -> bool:
    """True when the handler is to be called with an event of this record."""
    record = unpack(packed)
    events = parse(record.body, record.received_ms, record.attempt, record.body_digest, record.shares, record.headers)
    called = (one for event in events if not isinstance(event, Broken) for one, _ in registry.calls(event))
    return any(one.name == handler and one.digest not in record.done for one in called)


def _in_the_way(now: backlog.Backlog, lanes: Collection[str], handler: str | None) -> Iterator[str]:
    """What keeps events of these lanes from being handled all the same."""
    if not now.workers:
        yield "No worker is alive: they wait until you start `wa-ingest work`."
    for steered in now.steered:
        if steered.paused_since and handler in (None, steered.handler):
            name = printable(steered.handler)
            yield f"But {name} is paused, what is for it waits: `wa-ingest resume --handler {name}`."
    for lane in lanes:
        if now.lanes[lane].paused:
            yield f"But the lane {lane} is paused: `wa-ingest resume {lane}`."
