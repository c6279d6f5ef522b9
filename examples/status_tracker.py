"""Keeps in SQLite how far each message got, in spite of copies, disorder and several workers.

    WA_HANDLERS=examples.status_tracker:handlers wa-ingest up
    python -m examples.status_tracker

The database is the file that TRACKER_DB names (statuses.db). Each status is merged into its message's row: the highest
state, and for each state the earliest time. So neither the order of statuses nor copies change the row. The first
status of a message creates it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table

from workers import Handlers, Status

handlers = Handlers()

STATES = ("sent", "delivered", "failed", "read", "played")
"""From the lowest to the highest. Failed is the end of what was not read; what was read has arrived after all."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS messages (
  id TEXT NOT NULL,
  participant TEXT NOT NULL,  -- of a group, else empty
  state INTEGER NOT NULL,     -- place in STATES
  code INTEGER,               -- why it failed
  {", ".join(f"{state}_at INTEGER" for state in STATES)},  -- epoch seconds
  PRIMARY KEY (id, participant)
) WITHOUT ROWID
"""


def _earlier(column: str) -> str:
    # SQLite's min() of two is NULL when one is.
    return f"{column} = min(coalesce({column}, excluded.{column}), coalesce(excluded.{column}, {column}))"


_MERGE = f"""
INSERT INTO messages (id, participant, state, code, {", ".join(f"{state}_at" for state in STATES)})
VALUES (?, ?, ?, ?, {", ".join("?" for _ in STATES)})
ON CONFLICT DO UPDATE SET state = max(state, excluded.state),
  {", ".join(map(_earlier, ["code", *(f"{state}_at" for state in STATES)]))}
"""  # noqa: S608 - our own words


_mine = threading.local()


def database() -> sqlite3.Connection:
    """One connection for each thread. Every statement is a transaction of its own."""
    if not hasattr(_mine, "database"):
        _mine.database = _opened()
    found: sqlite3.Connection = _mine.database
    return found


def _opened() -> sqlite3.Connection:
    made = sqlite3.connect(path(), isolation_level=None, timeout=10.0)  # another worker may be writing
    try:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("PRAGMA synchronous = FULL")  # a handled status is not delivered again
        made.execute(_SCHEMA)
    except sqlite3.Error:
        made.close()  # the next status opens it again
        raise
    return made


def path() -> Path:
    return Path(os.environ.get("TRACKER_DB") or "statuses.db")


@handlers.status(*STATES)
def track(status: Status) -> None:
    if status.id is None or status.status is None:
        return
    at = int((status.timestamp or status.received_at).timestamp())
    code = next((error.code for error in status.errors), None)
    times = [at if status.status == state else None for state in STATES]
    row = (status.id, status.participant or "", STATES.index(status.status), code, *times)
    database().execute(_MERGE, row)


def counts() -> dict[str, int]:
    """How many messages are in each state."""
    found = dict(database().execute("SELECT state, count(*) FROM messages GROUP BY state"))
    return {state: found.get(n, 0) for n, state in enumerate(STATES)}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(as_json: bool) -> None:
    """Show how many messages got how far. TRACKER_DB names the database (statuses.db)."""
    if not path().exists():
        raise click.ClickException(f"there is no {path()}: no status was tracked yet, or TRACKER_DB names another file")
    try:
        shown = counts()
    except sqlite3.Error as error:
        raise click.ClickException(f"{path()} cannot be read: {error}") from None
    if as_json:
        click.echo(orjson.dumps(shown).decode())
        return
    table = Table("state", "messages")
    for state, count in shown.items():
        table.add_row(state, f"{count:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
