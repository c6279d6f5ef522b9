"""examples/postgres on a real PostgreSQL: what is in the tables depends on what was said, not on how."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from benchmarks.postgres_server import PostgreSQL
from ingest.store import keys
from tests.examples.database import with_tables
from workers.events.parsing import parse

asyncpg = pytest.importorskip("asyncpg")

from examples.postgres import recording  # noqa: E402
from examples.postgres.recording import STATES  # noqa: E402

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000
TIMES = [f"{state}_at" for state in STATES]


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with with_tables() as made:
        yield made


def query(database: PostgreSQL, statement: str) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(database.url)
        try:
            return [dict(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(autouse=True)
def tables(database: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, and named by DATABASE_URL."""
    query(database, "TRUNCATE deliveries, messages")
    monkeypatch.setenv("DATABASE_URL", database.url)


def status(id: str, state: str, at: int, **more: Any) -> bytes:
    said = {"id": id, "recipient_id": "15550001", "status": state, "timestamp": str(EPOCH + at), **more}
    return json.dumps({"statuses": [said]}).encode()


def message(id: str, text: str = "Hello") -> bytes:
    said = {"from": "15550001", "id": id, "timestamp": str(EPOCH), "type": "text", "text": {"body": text}}
    return json.dumps({"messages": [said]}).encode()


class Model:
    """What the table must hold after some statuses."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def say(self, id: str, state: str, at: int) -> bytes:
        row = self.rows.setdefault(id, {"message": id, "state": state} | dict.fromkeys(TIMES))
        row["state"] = max(row["state"], state, key=STATES.index)
        time = datetime.fromtimestamp(EPOCH + at, UTC)
        row[f"{state}_at"] = min(row[f"{state}_at"] or time, time)
        return status(id, state, at)

    def check(self, database: PostgreSQL) -> None:
        found = query(database, "SELECT * FROM deliveries")
        columns = ("message", "state", *TIMES)
        assert {row["message"]: {name: row[name] for name in columns} for row in found} == self.rows
        assert len(found) == len(self.rows)


def record(*lists: list[bytes]) -> None:
    """Give lists of events to the handlers, all at the same time."""

    async def run() -> None:
        await recording.open_pool()
        try:
            await asyncio.gather(*(_handled(bodies) for bodies in lists))
        finally:
            await recording.close_pool()

    asyncio.run(run())


async def _handled(bodies: list[bytes]) -> None:
    events: list[Any] = [event for body in bodies for event in parse(body, (EPOCH + 100) * 1000)]
    by_kind = {"status": recording.record_statuses, "message": recording.record_messages}
    for kind, handler in by_kind.items():
        if of_kind := [event for event in events if event.kind == kind]:
            await handler(of_kind)


def test_states_are_those_of_a_model(database: PostgreSQL) -> None:
    """Copies, any order, and lists at the same time that speak of the same messages: each row has the highest state and
    the earliest time of each, and no list fails at another one."""
    made, model = random.Random(1), Model()
    bodies = [model.say(f"m{made.randrange(200)}", made.choice(STATES), made.randrange(50)) for _ in range(3000)]
    bodies += made.sample(bodies, 500)
    made.shuffle(bodies)
    record(*(bodies[n : n + 100] for n in range(0, len(bodies), 100)))
    model.check(database)


def test_a_failure_has_its_code(database: PostgreSQL) -> None:
    """The code of a failure is kept whatever comes later; participants of a group have rows of their own."""
    failed = status("f", "failed", 1, errors=[{"code": 131026}])
    both = (status("g", "read", 2, recipient_participant_id=one) for one in "12")
    record([failed, *both], [status("f", "sent", 0)])
    found = query(database, "SELECT message, participant, state, code FROM deliveries ORDER BY 1, 2")
    assert [tuple(row.values()) for row in found] == [
        ("f", "", "failed", 131026),
        ("g", "1", "read", None),
        ("g", "2", "read", None),
    ]


def test_messages_are_there_once(database: PostgreSQL) -> None:
    """A repeat changes nothing, in the same list or another; text that PostgreSQL does not hold is replaced."""
    record([message("a"), message("a"), message("b", "x\0y")], [message("a", "other")])
    found = query(database, "SELECT id, contact, direction, text, raw FROM messages ORDER BY id")
    assert [(row["id"], row["contact"], row["direction"]) for row in found] == [
        ("a", "15550001", "in"),
        ("b", "15550001", "in"),
    ]
    assert found[0]["text"] in ("Hello", "other")
    assert found[1]["text"] == "x\ufffdy"
    assert json.loads(found[1]["raw"])["text"] == {"body": "x\0y"}


def test_without_an_id(database: PostgreSQL, commit: Any, dead: Any, work: Any) -> None:
    """What has no id is a dead letter at once; the rest of its list is in the table."""
    commit(message("a"), b'{"messages":[{"from":"1","type":"text"}]}', message("b"), partitions=1)
    work("postgres", WA_PARTITIONS="1", DATABASE_URL=database.url)
    assert [(letter["reason"], letter["detail"]) for letter in dead("messages")] == [("rejected", "it has no id")]
    assert [row["id"] for row in query(database, "SELECT id FROM messages ORDER BY id")] == ["a", "b"]


def test_the_server_is_killed_under_load(
    database: PostgreSQL,
    commit: Any,
    redis: Redis,
    run_module: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: Callable[..., None],
) -> None:
    """Twice the server is killed while two workers write, is away for a moment, and comes back: nothing is lost,
    nothing is there twice, no event is given up, and nobody has to restart a worker."""
    made, model, ids = random.Random(2), Model(), []
    monkeypatch.setenv("WA_HANDLERS", "examples.postgres:handlers")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    workers = [run_module("workers.engine.worker", cwd=tmp_path, env=environment) for _ in range(2)]
    for turn in range(3):
        bodies = []
        for n in range(1000):
            bodies.append(model.say(f"m{turn}-{made.randrange(800)}", made.choice(STATES), n))
            ids.append(f"t{turn}-{n}")
            bodies.append(message(ids[-1]))
        before = _count(database)
        commit(*bodies)
        if turn < 2:
            wait_for(lambda: _count(database) > before + 100)  # noqa: B023
            database.kill()
            database.start()
    wait_for(lambda: not redis.exists(keys.LEDGER), 90)
    assert all(worker.poll() is None for worker in workers)
    model.check(database)
    assert sorted(row["id"] for row in query(database, "SELECT id FROM messages")) == sorted(ids)
    assert not list(redis.scan_iter(keys.dead_key("*")))


def _count(database: PostgreSQL) -> int:
    (row,) = query(database, "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM deliveries) AS count")
    return int(row["count"])


@pytest.mark.parametrize(("folder", "name"), [(ROOT, "examples.postgres"), (ROOT / "examples", "postgres")])
def test_from_either_folder(folder: Path, name: str) -> None:
    """WA_HANDLERS names it from the project's folder, and in the image from that of the examples."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WA_HANDLERS": f"{name}:handlers"}
    command = [sys.executable, "-m", "workers.cli", "handlers", "--json"]
    shown = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=60)
    handlers = [one["handler"] for one in json.loads(shown.stdout)]
    assert handlers == [f"{name}.recording.record_statuses", f"{name}.recording.record_messages"]
