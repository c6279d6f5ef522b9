"""`wa-ingest destinations`: where events are posted."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import click
from rich.text import Text

from ingest.settings import SettingsError
from ingest.state import rates
from ingest.telemetry.printable import printable
from ingest.terminal import counted
from workers.cli import tables
from workers.cli.terminal import as_json, current_settings, print_json
from workers.destinations import file, reaching
from workers.destinations.destination import KINDS, Destination
from workers.raised import HandlersError

OLD_FILE = "workers that run go on with the file as they read it, and none starts with this one"
"""What a mistake in the file means."""


@click.command()
@click.option("--check", is_flag=True, help="Connect to each; nothing is posted. Exits 1 when one is not reached.")
@as_json
def destinations(check: bool, as_json: bool) -> None:
    """Show the destinations in the file that WA_DESTINATIONS names.

    Of each: its address; the kinds of event that it gets, with their types, statuses or fields; how: signed, lists,
    rate, calls at a time; with --check, whether it is reached. With --json: a list of objects of name, url, wants (an
    object of lists), business, rate (events per second), concurrency, timeout (seconds), bulk, linger, strict_order,
    body, signed, and with --check reached (true or false) and answer (why it is not).
    """
    found = _read()
    rows = [_row(one) for one in found]
    if check:
        for row, (is_reached, answer) in zip(rows, asyncio.run(_try(found)), strict=True):
            row |= {"reached": is_reached, "answer": answer}
    if as_json:
        print_json(rows)
    else:
        tables.show(("destination", "address, what it gets, how"), [(row["name"], _described(row)) for row in rows])
    if missed := sum(not row.get("reached", True) for row in rows):
        raise click.ClickException(f"{missed:,} of {counted(len(rows), 'destination')} cannot be reached, see above")


def _read() -> list[Destination]:
    try:
        path = current_settings().destinations
        if path is None:
            raise click.ClickException("WA_DESTINATIONS is not set: give the file of your destinations")
        return file.read(path)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    except HandlersError as error:
        raise click.ClickException(f"{error}\n{OLD_FILE.capitalize()}.") from None


async def _try(found: list[Destination]) -> list[tuple[bool, str]]:
    return list(await asyncio.gather(*map(_reached, found)))


async def _reached(destination: Destination) -> tuple[bool, str]:
    try:
        await reaching.reach(destination)
    except TimeoutError:
        return False, f"no connection within {destination.timeout:g} s"
    except OSError as error:
        return False, reaching.why(error, destination.url)
    return True, ""


def _row(destination: Destination) -> dict[str, Any]:
    return {
        "name": destination.name,
        "url": destination.url,
        "wants": {kind: sorted(some) for kind, some in destination.wants.items()},
        "business": list(destination.business),
        "rate": destination.rate,
        "concurrency": destination.concurrency,
        "timeout": destination.timeout,
        "bulk": destination.bulk,
        "linger": destination.linger,
        "strict_order": destination.strict_order,
        "body": destination.body,
        "signed": destination.key is not None,
    }


def _described(row: dict[str, Any]) -> Text:
    """A line for each of: where it is, what it gets, how, whether it is reached. So nothing is broken in mid-word."""
    wanted: dict[str, list[str]] = row["wants"]
    wants = ", ".join(f"{kind} ({', '.join(some)})" if some else kind for kind, some in wanted.items())
    if len(wanted) == len(KINDS) and not any(wanted.values()):
        wants = "all"
    how = ["signed"] if row["signed"] else []
    how += [f"business {number}" for number in row["business"]]
    how += [rates.in_words(row["rate"])] if row["rate"] else []
    how += [f"{row['concurrency']} at a time"]
    how += [f"lists of {row['bulk']}"] if row["bulk"] else []
    how += ["strict order"] if row["strict_order"] else []
    how += ["whole notifications"] if row["body"] == "notification" else []
    address = urlsplit(row["url"])
    shown = f"{address.scheme}://{address.netloc}{address.path}"  # a query may hold a token
    is_reached = row.get("reached", True)
    said = f"not reached: {row['answer']}" if not is_reached else "reached" if "reached" in row else ""
    answer = Text(printable(said), style="green" if is_reached else "bold red")
    return tables.stacked(shown, wants, ", ".join(how), answer)
