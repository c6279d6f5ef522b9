"""What every peer's task does with a notification: parse it, and call a function for each event.

It does nothing; with BENCH_DATABASE it writes a status into PostgreSQL, with one statement and one connection a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import orjson

DATABASE = os.environ.get("BENCH_DATABASE")

INSERT = """
INSERT INTO deliveries AS known (message, state, sent_at)
VALUES (%s, %s::delivery_state, to_timestamp(%s))
ON CONFLICT (message, participant) DO UPDATE SET state = greatest(known.state, excluded.state)
"""


def handle(body: bytes | str) -> None:
    for value in _values(orjson.loads(body)):
        for event in value.get("messages", ()):
            nothing(event)
        for event in value.get("statuses", ()):
            record(event)


def nothing(event: dict[str, Any]) -> None:
    pass


if DATABASE:
    import psycopg

    _of_thread = threading.local()

    def record(event: dict[str, Any]) -> None:
        if not hasattr(_of_thread, "connection"):
            _of_thread.connection = psycopg.connect(DATABASE, autocommit=True)
        _of_thread.connection.execute(INSERT, (event["id"], event["status"], int(event["timestamp"])))
else:
    record = nothing


def _values(notification: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts that hold the events: the whole in the On-Premises form, one for each change in the Cloud form."""
    if "entry" not in notification:
        yield notification
        return
    for entry in notification["entry"]:
        for change in entry["changes"]:
            yield change["value"]
