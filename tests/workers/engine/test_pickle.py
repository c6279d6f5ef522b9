"""Whoever may write into Redis cannot make a worker unpickle anything, or run a function of his choice."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import compress

import orjson
import pytest
from redis import Redis
from rq.exceptions import DeserializationError
from rq.job import Job

from ingest.store import keys
from ingest.store.jobs import job_template, rq_now
from ingest.store.records import pack

ROOT = Path(__file__).parents[3]
QUEUE = "statuses"
STATUS = b'{"statuses":[{"id":"s","recipient_id":"15550001","status":"read"}]}'


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap makes."""
    return tmp_path / "sprung"


@pytest.fixture
def burst(tmp_path: Path, redis_url: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Run a real worker until nothing is left; its handlers print the ids of statuses."""
    (tmp_path / "bot.py").write_text(
        "from workers import Handlers\n\nhandlers = Handlers()\n\n"
        "@handlers.status()\ndef on_status(status):\n    print(status.id, flush=True)\n"
    )

    def run() -> subprocess.CompletedProcess[str]:
        stdin, ours = os.pipe()  # a worker ends with its standard input
        try:
            return subprocess.run(
                [sys.executable, "-m", "workers.engine.worker", "--burst"],
                cwd=tmp_path,
                env=os.environ | {"WA_HANDLERS": "bot:handlers", "WA_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            os.close(stdin)
            os.close(ours)

    return run


def _plant(redis: Redis, id: str, record: bytes, **fields: bytes) -> None:
    """A batch with one record, and an RQ job with these fields, as somebody with the right to write would."""
    made = orjson.loads(job_template().replace("_ID_", id).replace("_QUEUE_", QUEUE))
    own = dict(zip(made[::2], made[1::2], strict=True)) | {"created_at": rq_now(), "enqueued_at": ""}
    redis.hset(f"{keys.RQ}:job:{id}", mapping=own | fields)
    redis.rpush(keys.batch_key(id), record)
    redis.zadd(keys.LEDGER, {f"{QUEUE}|{id}": 1})
    redis.rpush(keys.queue_key(QUEUE), id)
    redis.sadd(keys.RQ_QUEUES, keys.queue_key(QUEUE))


def _traps(sprung: Path) -> dict[str, bytes]:
    pickled = pickle.dumps(Trap(sprung))
    call = json.dumps(["pathlib.Path.touch", None, [str(sprung)], {}]).encode()
    return {
        "data": compress(pickled),
        "data ": pickled,
        "data  ": call,
        "data   ": compress(call),
        "meta": pickled,
        "result": pickled,
        "exc_info": pickled,
        "success_callback_name": b"pathlib.Path.touch",
        "failure_callback_name": b"pathlib.Path.touch",
    }


def test_the_trap_works(sprung: Path) -> None:
    """RQ with its own serializer springs the trap: the other tests would notice."""
    job = Job("x", connection=Redis())
    job.restore({"created_at": rq_now(), "data": compress(pickle.dumps(Trap(sprung)))})
    with pytest.raises(DeserializationError):
        job.func_name  # noqa: B018 - reading it is what unpickles
    assert sprung.exists()


def test_jobs(redis: Redis, burst: Callable[[], Any], sprung: Path) -> None:
    """Of a job in Redis nothing is unpickled or called, whichever field it is in; its batch is handled as any other."""
    traps = _traps(sprung)
    for n, (field, trap) in enumerate(traps.items()):
        _plant(
            redis,
            f"b{n}",
            STATUS.join((pack(b"", 1), b"")).replace(b'"s"', b'"s%d"' % n),
            **{field.strip(): trap},
        )
    done = burst()
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == [f"s{n}" for n in range(len(traps))]
    assert not sprung.exists()


def test_records(redis: Redis, burst: Callable[[], Any], sprung: Path) -> None:
    """A pickle as a notification is a dead letter, and the next batch is handled."""
    _plant(redis, "b1", pack(pickle.dumps(Trap(sprung)), 1))
    _plant(redis, "b2", pack(STATUS, 1))
    done = burst()
    assert (done.returncode, done.stdout) == (0, "s\n"), done.stderr
    letters: Any = redis.xrange(keys.dead_key(QUEUE))
    assert [fields[b"reason"] for _, fields in letters] == [b"unreadable"]
    assert not sprung.exists()


def test_what_rq_keeps(redis: Redis, burst: Callable[[], Any], sprung: Path) -> None:
    """What RQ reads at a worker's start, of workers, executions, jobs given up and results, is not unpickled."""
    pickled = pickle.dumps(Trap(sprung))
    for state in ("started", "failed", "queued"):
        _plant(redis, state, pack(STATUS, 1), status=state.encode(), **{
            name: trap for name, trap in _traps(sprung).items() if name.strip() != "data"
        })  # fmt: skip
        redis.zadd(f"{keys.RQ}:wip:{QUEUE}", {f"{state}:execution": 1})
        redis.hset(f"{keys.RQ}:execution:{state}:execution", mapping={"created_at": pickled})
        redis.xadd(f"{keys.RQ}:results:{state}", {"type": 1, "return_value": b64encode(pickled)})
        redis.zadd(f"{keys.RQ}:failed:{QUEUE}", {state: 1})
    redis.rpush(f"{keys.RQ}:queue:{QUEUE}:intermediate", "started")
    redis.sadd(f"{keys.RQ}:workers", f"{keys.RQ}:worker:x")
    redis.hset(f"{keys.RQ}:worker:x", mapping={"birth": pickled, "current_job": pickled})
    done = burst()
    assert done.returncode == 0, done.stderr
    assert "s\n" in done.stdout, done.stderr
    assert not sprung.exists()
