"""docs/recipes/flask.md, with the real Flask."""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from tests.installed import packages_in
from tests.recipes.conftest import blocks
from tests.workers.destinations.test_posting import cloud, text

SECRET = "the same as in WEBHOOK_SECRET"


@pytest.fixture(scope="module")
def flask(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with Flask, apart from what the project needs."""
    return packages_in(tmp_path_factory.mktemp("flask"), "flask>=3.1,<4")


def _rows(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "messages.db")) as db:
        return db.execute("SELECT sender, said FROM messages ORDER BY rowid").fetchall()


def _post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_flask(
    flask: str,
    recipe: Callable[..., Path],
    program: Any,
    worker: Any,
    commit: Any,
    wait_for: Any,
    free_port: Callable[[], int],
    redis: Redis,
    tmp_path: Path,
) -> None:
    """What came while it was stopped is stored when it runs, once however often it comes; unsigned it is refused."""
    (code,) = blocks("flask.md", "python")
    (tmp_path / "app.py").write_text(code)
    port = free_port()
    commit(*[cloud(text(f"{who}{n}", who) | {"text": {"body": f"Grüße {n}"}}) for n in range(3) for who in ("1", "2")])
    worker(recipe("flask.md", f"http://127.0.0.1:{port}"), WA_MAX_ATTEMPTS="1")
    wait_for(lambda: redis.scard(keys.PUT_OFF), 60)
    env = os.environ | {"PYTHONPATH": flask, "WEBHOOK_SECRET": SECRET}
    program(port, sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port), cwd=tmp_path, env=env)
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    for who in ("1", "2"):
        assert sorted(said for sender, said in _rows(tmp_path) if sender == who) == [f"Grüße {n}" for n in range(3)]
    url, body = f"http://127.0.0.1:{port}/webhook", cloud(text("m", "3"))
    signed = {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
    assert [_post(url, body, signed | {"X-WA-Event": "0" * 32}) for _ in range(2)] == [200, 200]
    assert [said for sender, said in _rows(tmp_path) if sender == "3"] == ["Hello"]
    assert _post(url, body, {"X-WA-Event": "1" * 32}) == _post(url, body + b" ", signed) == 403
