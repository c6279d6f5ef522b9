"""`wa-ingest handlers` and `wa-ingest call`: for writing handlers."""

from __future__ import annotations

import inspect
from typing import IO, Any

import click
from rich.text import Text

from ingest.settings import SettingsError
from ingest.state import rates
from ingest.telemetry.printable import printable_lines
from ingest.terminal import aside, counted, shortened
from workers import doubts, loading
from workers.cli import event_lines, tables
from workers.cli.terminal import as_json, current_settings, print_json
from workers.events import Broken, Event
from workers.handler import Handler
from workers.handlers import Handlers
from workers.raised import HandlersError
from workers.testing import Called
from workers.testing import call as call_handlers


@click.command()
@as_json
def handlers(as_json: bool) -> None:
    """Show the handlers that WA_HANDLERS registers, in the order in which they are called.

    wants are message types, statuses or change fields; * means all. With --json: a list of objects of kind, wants,
    handler, is_async, rate (calls per second, over all workers of one Redis), concurrency (calls at a time, in one
    worker process), bulk (most events of a list; null: it gets one event), linger (seconds that an event waits for
    company), business (ids of business numbers; empty: all), ways (of messages: in, out, history in, history
    out), strict_order, defined (file:line).
    """
    rows = [_row(one) for one in _load().registered]
    if as_json:
        print_json(rows)
        return
    console = tables.console()
    found = [
        (one["kind"], ", ".join(one["wants"]) or "*", one["handler"], _how(one), shortened(one["defined"]))
        for one in rows
    ]
    table = tables.of(("kind", "wants", "handler", "", "defined"), found)
    if not tables.fits(table, console):
        narrow = [(kind, tables.stacked(name, wants, how, defined)) for kind, wants, name, how, defined in found]
        table = tables.of(("kind", "handler, what it wants, how, where it is defined"), narrow)
    console.print(table)


def _how(row: dict[str, Any]) -> str:
    words = ["async"] if row["is_async"] else []
    words += [rates.in_words(row["rate"])] if row["rate"] else []
    words += [f"{row['concurrency']} at a time"] if row["concurrency"] else []
    words += [f"lists of {row['bulk']}, waits {row['linger']:g} s"] if row["bulk"] else []
    words += [way for way in row["ways"] if row["ways"] != ["in"]]
    words += [f"business {number}" for number in row["business"]]
    words += ["strict order"] if row["strict_order"] else []
    return ", ".join(words)


def _row(handler: Handler) -> dict[str, Any]:
    return {
        "kind": handler.kind,
        "wants": sorted(handler.by_kind or handler.wants),
        "handler": handler.name,
        "is_async": handler.is_async,
        "rate": handler.rate,
        "concurrency": handler.concurrency,
        "bulk": handler.bulk,
        "linger": handler.linger,
        "business": sorted(handler.business),
        "ways": sorted(handler.ways),
        "strict_order": handler.strict_order,
        "defined": _defined(handler),
    }


def _defined(handler: Handler) -> str:
    try:
        code = inspect.unwrap(handler.function).__code__
    except AttributeError:
        return ""
    return f"{code.co_filename}:{code.co_firstlineno}"


def _headers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for given in values:
        name, colon, value = given.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter("give NAME:VALUE, for example X-Turn-Event:message")
        found[name.strip()] = value.strip()
    return found


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, callback=_headers, help="For event.headers.")
@as_json
def call(file: IO[bytes], headers: dict[str, str], as_json: bool) -> None:
    """Run the body in FILE (- is standard input) through your handlers, in this process, without Redis.

    Shows for each event which handlers match and how it ended, and what handlers print. The handlers are really called,
    with all that they do, bulk handlers with lists. Copies are not recognised, only system messages bring news of a
    profile, and handlers' rate and concurrency have no effect. Exits 1 when an event failed or was rejected, or a part
    of the body is no event.

    With --json a list of objects of event (kind), subject (type, status or field), handlers, outcome, detail,
    handler (the one that raised), retry_in (seconds).
    """
    body, limit = file.read(), current_settings().handler_timeout
    found = call_handlers(_load(), body, timeout=limit, headers=headers)
    if as_json:
        print_json([_as_json(one) for one in found])
    else:
        tables.show(("event", "outcome", "handlers, and detail"), map(_ended, found))
    if wrong := sum(one.outcome not in event_lines.COLOURS for one in found):
        raise click.ClickException(f"{wrong:,} of {counted(len(found), 'event')} did not end well, see above")


def _ended(called: Called) -> tuple[str, Text, Text]:
    colour = event_lines.COLOURS.get(called.outcome, event_lines.FAILURE)
    detail = Text(printable_lines(shortened(called.detail)), style=colour)
    event = f"{called.event.kind} {_subject(called.event)}".rstrip()
    return event, Text(called.outcome, colour), tables.stacked(*called.handlers, detail)


def _as_json(called: Called) -> dict[str, Any]:
    return called._asdict() | {"event": called.event.kind, "subject": _subject(called.event)}


def _subject(event: Event | Broken) -> str:
    return "" if isinstance(event, Broken) else event.subject or ""


def _load() -> Handlers:
    """The handlers that WA_HANDLERS names. Whatever their module raises becomes an error of one line."""
    try:
        settings = current_settings()
        name = settings.handlers
        found = loading.load_all(name, settings.destinations)
    except (SettingsError, HandlersError) as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:
        raise click.ClickException(loading.explain(name, error)) from None
    for line in doubts.of(found, name):
        aside(f"Warning: {line}")
    return found
