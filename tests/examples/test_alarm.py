"""examples/alarm.py in real workers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from redis import Redis

from examples import alarm
from ingest.store import keys


def _failed(n: int, code: int = 131026) -> bytes:
    status = {"id": f"secret{n}", "recipient_id": "15550001", "status": "failed", "errors": [{"code": code}]}
    return json.dumps({"statuses": [status]}).encode()


def _error(n: int, code: int = 130429) -> bytes:
    return json.dumps({"errors": [{"code": code, "title": f"title {n}", "details": "secret"}]}).encode()


def _lines(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("wa-ingest: code ")]


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address, and what was posted there; it answers 500 when its path is /broken."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_one_line(work: Any, commit: Any) -> None:
    """A code that comes often enough, as an error or in failed statuses, is one line; others are none."""
    commit(*[_error(n) for n in range(alarm.THRESHOLD + 5)], *[_failed(n) for n in range(alarm.THRESHOLD - 1)])
    done = work("alarm")
    (line,) = _lines(done)
    assert re.fullmatch(r"wa-ingest: code 130429 came 1\d times within 5 minutes", line)  # eight threads count
    commit(_failed(99))
    assert _lines(work("alarm")) == [f"wa-ingest: code 131026 came {alarm.THRESHOLD} times within 5 minutes"]
    commit(*[_failed(n) for n in range(100, 120)])
    done = work("alarm")
    assert _lines(done) == []  # another process, but the period is not over
    assert "secret" not in done.stderr + done.stdout


def test_window(work: Any, commit: Any, redis: Redis) -> None:
    """What came before the window does not count, and all that is counted is forgotten with it."""
    commit(*[_failed(n) for n in range(alarm.THRESHOLD - 1)])
    work("alarm")
    slots = list(redis.scan_iter(f"{keys.WA}example:alarm:*"))
    assert slots
    for slot in slots:
        assert 0 < redis.ttl(slot) <= alarm.WINDOW  # type: ignore[operator]
        prefix, _, number = slot.decode().rpartition(":")
        redis.rename(slot, f"{prefix}:{int(number) - alarm.WINDOW // 10}")
    commit(_failed(99))
    assert _lines(work("alarm")) == []


def test_webhook(work: Any, commit: Any, hook: tuple[str, list[dict[str, str]]]) -> None:
    """With ALARM_WEBHOOK the line goes there, as JSON."""
    address, got = hook
    commit(*[_failed(n) for n in range(alarm.THRESHOLD)])
    done = work("alarm", ALARM_WEBHOOK=address)
    assert got == [{"text": f"wa-ingest: code 131026 came {alarm.THRESHOLD} times within 5 minutes"}]
    assert _lines(done) == []


@pytest.mark.parametrize("address", ["/broken", "http://127.0.0.1:1/T0/hunter2", "hunter2"])
def test_a_webhook_that_fails(work: Any, commit: Any, hook: Any, address: str, dead: Any) -> None:
    """The line goes to standard error instead, without the address; the events are handled."""
    address = hook[0] + address if address.startswith("/") else address
    commit(*[_failed(n) for n in range(alarm.THRESHOLD)])
    done = work("alarm", ALARM_WEBHOOK=address)
    (line,) = _lines(done)
    assert "(ALARM_WEBHOOK fails: " in line
    assert "hunter2" not in done.stderr
    assert dead("statuses") == []
