"""docs/recipes/backfill.md, with real workers and the page's commands."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.conftest import lines
from tests.workers.destinations.test_posting import cloud, text

HOURS = {"before": 13, "bug": 14, "after": 16}
BUG = """
@handlers.around
def loses(event):
    yield
    if event.received_at.hour == 14:
        with closing(sqlite3.connect(DATABASE, timeout=20)) as db, db:
            db.execute("DELETE FROM messages WHERE id = ?", [event.id])
"""

PRINTS = """
@handlers.message()
def prints(message):
    print(f"handled {message.id}\\n", end="")
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(folder))
    monkeypatch.setenv("WA_ARCHIVE_AGE", "100000d")
    return folder


def _arrive(commit: Any) -> None:
    for id, hour in HOURS.items():
        arrived = datetime(2026, 11, 21, hour, 30, tzinfo=UTC)
        commit(cloud(text(id)), received_ms=int(arrived.timestamp() * 1000))


def _rows(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "messages.db")) as db:
        return [id for (id,) in db.execute("SELECT id FROM messages ORDER BY received_at")]


def test_a_handler_did_the_wrong_thing(work: Any, commit: Any, command: Any, archive: Path, tmp_path: Path) -> None:
    """With the handler mended and the page's command, what it lost is there, with the time of its arrival. What is
    replayed without --again, and what the sender sends again, is handled once."""
    _arrive(commit)
    work("backfill.md", BUG)
    assert _rows(tmp_path) == ["before", "after"]
    count, replay = lines("backfill.md", "wa-ingest replay --from")
    assert "1" in command(count)
    command(replay)
    command("wa-ingest replay --yes")
    _arrive(commit)
    said = work("backfill.md", PRINTS)
    assert [line for line in said.splitlines() if line.startswith("handled ")] == ["handled bug"]
    assert _rows(tmp_path) == list(HOURS)


def test_something_new_gets_the_past(
    work: Any, commit: Any, command: Any, archive: Path, redis_url: str, redis: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Replayed into another database of Redis, what is new alone gets all; the first database sees nothing of it."""
    _arrive(commit)
    work("backfill.md")
    monkeypatch.delenv("WA_ARCHIVE_DIR")
    monkeypatch.setenv("WA_REDIS_URL", f"{redis_url}?db=1")
    before = redis.hgetall("rq:wa:counts")
    command(f"wa-ingest replay {archive} --yes")
    said = work("backfill.md", PRINTS, DATABASE=str(tmp_path / "new.db"))
    assert [line for line in said.splitlines() if line.startswith("handled ")] == [f"handled {id}" for id in HOURS]
    assert redis.hgetall("rq:wa:counts") == before
