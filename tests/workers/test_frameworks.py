"""docs/frameworks.md: its recipes, word for word, in real workers with the real packages."""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.installed import packages_in

ROOT = Path(__file__).parents[2]
PACKAGES = ("sentry-sdk>=2,<3", "django>=5.2,<5.3", "sqlalchemy>=2,<3")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the packages, apart from what the project needs."""
    return packages_in(tmp_path_factory.mktemp("packages"), *PACKAGES)


@pytest.fixture
def work(
    packages: str, tmp_path: Path, run_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Have a worker do all that waits with the recipe of that heading, and with more code below it: what it logged."""

    def run(heading: str, more: str = "", **environment: str) -> str:
        page = (ROOT / "docs/frameworks.md").read_text()
        (code,) = re.findall(rf"^## {heading}\n\n```python\n(.*?)^```", page, re.M | re.S)
        (tmp_path / "bot.py").write_text(code + more)
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), packages)))
        for name, value in {"WA_HANDLERS": "bot:handlers", "PYTHONPATH": path, **environment}.items():
            monkeypatch.setenv(name, value)
        with (tmp_path / "log").open("w") as log:
            process = run_module("workers.engine.worker", "--burst", cwd=tmp_path, stdout=log)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
        return (tmp_path / "log").read_text()

    return run


@pytest.fixture
def sentry() -> Iterator[tuple[str, list[str]]]:
    """A server in place of Sentry: its DSN, and what it was sent."""
    sent: list[str] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append((gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode())
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Take) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://key@127.0.0.1:{server.server_port}/1", sent
        server.shutdown()
        thread.join()


FAILS = """
@handlers.message()
{kind} fails(message):
    secret = message.text
    raise LookupError("no such order")
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_sentry(kind: str, work: Any, sentry: tuple[str, list[str]], commit: Any, message: Any) -> None:
    """A failure is sent with its exception and the user's own frame, without what the contact wrote; the log has the
    frames, and nothing that the exception says.
    """
    dsn, sent = sentry
    commit(message("1", text={"body": "PIN 1234"}))
    log = work("Sentry", FAILS.format(kind=kind), SENTRY_DSN=dsn)
    (event,) = [envelope for envelope in sent if '"exception"' in envelope]
    assert "LookupError" in event
    assert '"function":"fails"' in event.replace(" ", "")
    assert "no such order" in event
    assert not any("PIN 1234" in envelope for envelope in sent)
    assert "in fails" in log
    assert "no such order" not in log


SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["notes"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},  # SQLite locks the whole file
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
LOGGING = {"version": 1, "disable_existing_loggers": True}
"""
MODELS = """
from django.db import models

class Note(models.Model):
    id = models.CharField(max_length=100, primary_key=True)
    text = models.TextField()

    class Meta:
        db_table = "notes"
"""
CHECKS = """
from django.db import connection

@handlers.message("image")
def sees_a_new_connection(message):
    assert connection.connection is None  # CONN_MAX_AGE is 0: the one of the event before is closed
    Note.objects.count()
    assert connection.connection is not None
"""


def test_django(work: Any, tmp_path: Path, commit: Any, message: Any, status: Any, nothing_left: Any) -> None:
    """The ORM works in plain handlers beside async ones, and connections do not grow old."""
    for package, files in {"mysite": {"settings.py": SETTINGS}, "notes": {"models.py": MODELS}}.items():
        (tmp_path / package).mkdir()
        for name, text in {"__init__.py": "", **files}.items():
            (tmp_path / package / name).write_text(text)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute("CREATE TABLE notes (id VARCHAR(100) PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO notes VALUES (?, 'old')", [(f"gone{n}",) for n in range(5)])
    commit(
        *[message(str(n), sender=str(n)) for n in range(20)],
        *[message(f"i{n}", sender=str(n), type="image") for n in range(20)],
        *[status(f"gone{n}", status="failed") for n in range(5)],
    )
    log = work("Django", CHECKS)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        rows = database.execute("SELECT id FROM notes").fetchall()
    assert sorted(id for (id,) in rows) == sorted(str(n) for n in range(20)), log
    nothing_left()


BREAKS = """
@handlers.message("image")
def breaks(message):
    session.get().execute(text("INSERT INTO notes VALUES (:id, 'rolled back')"), {"id": message.id})
    raise LookupError
"""


def test_sqlalchemy(work: Any, tmp_path: Path, commit: Any, message: Any) -> None:
    """Each event has a transaction of its own: committed, or rolled back when the handler fails."""
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")
    commit(*[message(str(n), sender=str(n)) for n in range(50)], message("bad", sender="x", type="image"))
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}?timeout=30"
    log = work("SQLAlchemy", BREAKS, DATABASE_URL=url)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        rows = database.execute("SELECT id FROM notes").fetchall()
    assert sorted(id for (id,) in rows) == sorted(str(n) for n in range(50)), log
    assert "LookupError" in log
