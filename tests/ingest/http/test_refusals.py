"""Refusals leave a trace: a line in the log by cause, and counts in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.http import refusals as room
from ingest.http.answers import Refused
from ingest.http.refusals import Refusals
from ingest.state import backlog

BODY = b'{"statuses":[]}'


def test_causes(
    redis: Redis, redis_url: str, start_receiver: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Each cause is one line with its remedy, however many requests, quotes none of them, and is counted in Redis."""
    receiver = start_receiver(redis_url, WA_APP_SECRET="secret", WA_PATH="/hook")
    for _ in range(5):
        receiver.sender().ask("POST /webhook/Kerry", BODY)
        receiver.sender().ask("POST /hook", BODY)
        receiver.sender().ask("POST /hook", BODY, X_Hub_Signature_256="sha256=Kerry")
        receiver.sender().ask("GET /hook?hub.mode=subscribe&hub.verify_token=Kerry")
        receiver.sender().ask("GET /hook")
    lines = [json.loads(line) for line in receiver.log().splitlines() if "requests refused" in line]
    assert {line["reason"]: line["status"] for line in lines} == {
        "path": 404,
        "unsigned": 401,
        "signature": 401,
        "no_token": 403,
        "visit": 403,
    }
    assert len(lines) == 5
    assert all(line["remedy"] for line in lines)
    assert "Kerry" not in receiver.log()
    expected = dict.fromkeys(("path", "unsigned", "signature", "no_token", "visit"), 5)
    wait_for(lambda: backlog.read(redis).requests == expected, seconds=60)


def test_next_line(monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    """The next line of a cause, a minute later, says how many came since."""
    counted, now = Refusals(), [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    for seconds in (0.0, 1.0, 58.0, 1.0, 1.0, 60.0):
        now[0] += seconds
        counted.note(Refused(401, "signature"))
    assert [line["count"] for line in logged] == [1, 3, 2]
    counted.note(Refused(503, "not_durable"))
    counted.accepted = 7
    assert counted.take() == {"signature": 6, "accepted": 7}
    assert counted.take() == {}
