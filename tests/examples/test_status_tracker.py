"""examples/status_tracker.py: the row of a message depends on what was said, not on how."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from examples import status_tracker
from examples.status_tracker import STATES
from ingest.store import keys
from workers.events.parsing import parse

ROOT = Path(__file__).parents[2]


def _body(state: str, id: str = "s", at: int | None = None, **more: Any) -> bytes:
    at = 1_700_000_000 + STATES.index(state) if at is None else at
    status = {"id": id, "recipient_id": "15550001", "status": state, "timestamp": str(at), **more}
    return json.dumps({"statuses": [status]}).encode()


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Track bodies, in this process, in a database of the test's own."""
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "statuses.db"))
    status_tracker._mine.__dict__.clear()

    def run(*bodies: bytes) -> None:
        for body in bodies:
            for event in parse(body, 1_700_000_100_000):
                status_tracker.track(event)  # type: ignore[arg-type]

    yield run
    status_tracker.database().close()
    status_tracker._mine.__dict__.clear()


def _rows(path: Path | None = None) -> list[tuple[Any, ...]]:
    if path is None:
        return status_tracker.database().execute("SELECT * FROM messages ORDER BY id, participant").fetchall()
    reader = sqlite3.connect(path)
    rows = reader.execute("SELECT * FROM messages ORDER BY id, participant").fetchall()
    reader.close()
    return rows


LIVES = [STATES[:1], ("sent", "delivered", "read", "played"), ("sent", "failed"), STATES, ("delivered", "read")]


@examples(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), life=st.sampled_from(LIVES))
def test_order_and_copies_do_not_matter(tracker: Any, data: st.DataObject, life: tuple[str, ...]) -> None:
    """Any order of a life-cycle, with any copies, gives the same row: its highest state and each state's time."""
    bodies = [_body(state, **({"errors": [{"code": 131026}]} if state == "failed" else {})) for state in life]
    bodies += [_body("sent", at=1_700_000_050)] if "sent" in life else []  # said again, later
    copies = data.draw(st.lists(st.sampled_from(bodies), max_size=8))
    status_tracker.database().execute("DELETE FROM messages")
    tracker(*data.draw(st.permutations(bodies + copies)))
    times = [1_700_000_000 + n if state in life else None for n, state in enumerate(STATES)]
    code = 131026 if "failed" in life else None
    assert _rows() == [("s", "", max(map(STATES.index, life)), code, *times)]


def test_failed_stays(tracker: Any) -> None:
    """A failed message stays failed, whatever lower state comes later; the first status makes the row."""
    tracker(_body("failed", errors=[{"code": 470}]), _body("sent", at=1_800_000_000), _body("delivered", id="t"))
    assert status_tracker.counts() == {"sent": 0, "delivered": 1, "failed": 1, "read": 0, "played": 0}


def test_groups(tracker: Any) -> None:
    """In a group each participant has a row of its own."""
    tracker(_body("read", recipient_participant_id="1"), _body("sent", recipient_participant_id="2"))
    assert [row[1:3] for row in _rows()] == [("1", STATES.index("read")), ("2", STATES.index("sent"))]


def test_what_is_left_out(tracker: Any) -> None:
    """A status without a time gets that of its arrival; one without an id is passed over."""
    tracker(b'{"statuses":[{"id":"s","status":"sent"},{"status":"sent"}]}')
    assert [row[4] for row in _rows()] == [1_700_000_100]


def test_several_workers(redis: Any, commit: Any, tmp_path: Path, redis_url: str) -> None:
    """Workers that write at the same time lose nothing; the counts are shown as a table and as JSON."""
    bodies = [_body(state, id=f"s{n}") for state in ("read", "sent", "delivered") for n in range(300)]
    commit(*bodies, batch=25)
    env = {"WA_HANDLERS": "examples.status_tracker:handlers", "WA_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    env["TRACKER_DB"] = str(tmp_path / "statuses.db")
    command = [sys.executable, "-m", "workers.cli", "work", "--burst", "--processes", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = _rows(tmp_path / "statuses.db")
    assert len(rows) == 300
    assert {row[2:] for row in rows} == {(STATES.index("read"), None, *_times("sent", "delivered", "read"))}
    assert not list(redis.scan_iter(f"{keys.RQ}:scheduled:*"))
    shown = CliRunner().invoke(status_tracker.main, ["--json"], env=env)
    assert json.loads(shown.output)["read"] == 300
    status_tracker.database().close()
    status_tracker._mine.__dict__.clear()


def _times(*states: str) -> list[int | None]:
    return [1_700_000_000 + n if state in states else None for n, state in enumerate(STATES)]


def test_table(tracker: Any) -> None:
    """`python -m examples.status_tracker` prints a line for each state."""
    tracker(_body("read"))
    shown = CliRunner().invoke(status_tracker.main)
    assert shown.exit_code == 0
    assert [word for line in shown.output.splitlines() for word in line.split() if word in STATES] == list(STATES)


def test_no_database(tmp_path: Path) -> None:
    """Without a database, or with a file that is none, it says so in one line and makes none."""
    missing = tmp_path / "none.db"
    rubbish = tmp_path / "rubbish.db"
    rubbish.write_text("no database" * 100)
    for path, says in ((missing, "TRACKER_DB"), (rubbish, "cannot be read")):
        status_tracker._mine.__dict__.clear()
        shown = CliRunner().invoke(status_tracker.main, env={"TRACKER_DB": str(path)})
        assert shown.exit_code == 1
        assert says in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
    assert not missing.exists()
