"""The whole way: what a sender posts reaches a business handler."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis import Redis

from ingest.commit.committer import make_committer
from ingest.routing import route
from ingest.settings import load
from ingest.store import keys

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
CASES = ROOT.parent / "shared" / "cases"

RECORDER = """
import json, os
from workers import Handlers

handlers = Handlers()
out = open(os.environ["SEEN"], "a", buffering=1)

@handlers.message()
@handlers.status()
@handlers.error()
@handlers.change()
def record(event):
    out.write(json.dumps([event.kind, event.id]) + "\\n")
"""


class Up:
    """`wa-ingest up` in a folder of its own."""

    def __init__(self, folder: Path, port: int, admin: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}/webhook"
        self.seen_path = folder / "seen"
        self.seen_path.touch()
        (folder / "recorder.py").write_text(RECORDER)
        self.env = os.environ | {
            "WA_LISTEN": f"127.0.0.1:{port}",
            "WA_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "WA_HANDLERS": "recorder:handlers",
            "SEEN": str(self.seen_path),
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start, and return what it says until it is ready."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "up"],
                cwd=self.folder,
                env=self.env | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                return "".join(said)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def seen(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.seen_path.read_text().splitlines()]

    def status(self) -> dict[str, Any]:
        """`wa-ingest status --json` against the embedded server."""
        run = subprocess.run(
            [sys.executable, "-m", "workers.cli", "status", "--json"],
            cwd=ROOT,
            env=self.env | {"WA_REDIS_URL": f"unix://{self.folder}/data/valkey.sock"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        shown: dict[str, Any] = json.loads(run.stdout)
        return shown

    async def post(self, session: aiohttp.ClientSession, body: bytes) -> int:
        async with session.post(self.url, data=io.BytesIO(body)) as answer:
            await answer.read()
            return answer.status

    def post_all(self, bodies: list[bytes], connections: int = 16) -> list[int]:
        """Post all bodies, `connections` at a time, and return the statuses in order; 0 for no answer."""

        async def go() -> list[int]:
            statuses = [0] * len(bodies)
            left = iter(range(len(bodies)))
            async with aiohttp.ClientSession() as session:

                async def work() -> None:
                    for n in left:
                        with contextlib.suppress(aiohttp.ClientError, OSError):
                            statuses[n] = await self.post(session, bodies[n])

                await asyncio.gather(*[work() for _ in range(connections)])
            return statuses

        return asyncio.run(go())


@pytest.fixture
def up(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Up]:
    """`wa-ingest up`, not started yet; ended after the test whatever happens."""
    made = Up(tmp_path, free_port(), free_port())
    yield made
    if made.process and made.process.poll() is None:
        made.stop()


def _status(n: int) -> bytes:
    return b'{"statuses":[{"id":"s%d","recipient_id":"15550001","status":"read","timestamp":"1700000000"}]}' % n


def test_what_up_says(up: Up) -> None:
    """`up` says what it started and how to try it, and a second one in the same folder is refused in one line."""
    said = up.start()
    assert up.url in said.replace("localhost", "127.0.0.1")
    assert "curl" in said
    assert "status   # in this folder" in said
    second = subprocess.run(
        [sys.executable, "-m", "workers.cli", "up"],
        cwd=up.folder,
        env=up.env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert second.stderr.startswith("Error: data is in use by `wa-ingest up` with pid ")
    assert len(second.stderr.splitlines()) == 1
    assert up.stop(signal.SIGINT) == 0


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not beside the project")
def test_corpus(up: Up, wait_for: Callable[..., None]) -> None:
    """Every sample body is answered 200, and handlers get exactly what it holds, counted file by file."""
    up.start()
    expected: dict[str, dict[str, int]] = json.loads((CORPUS / "EXPECTED.json").read_text())
    for name, counts in expected.items():
        before = len(up.seen())
        body = json.dumps(json.loads((CORPUS / name).read_text()), separators=(",", ":")).encode()
        assert up.post_all([body]) == [200], name
        wait_for(lambda: len(up.seen()) >= before + sum(counts.values()), 30, name)  # noqa: B023
        assert Counter(kind for kind, _ in up.seen()[before:]) == counts, name
    assert sum(lane["dead"] for lane in up.status()["lanes"].values()) == 0


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside the project")
def test_reported_bytes(up: Up, wait_for: Callable[..., None]) -> None:
    """Bodies that people reported to break parsers give all their messages; other platforms' are no dead letters."""
    up.start()
    readable = sorted(CASES.glob("by0[1-9]-*.json")) + sorted(CASES.glob("by10-*.json"))
    for file in readable:
        before, body = len(up.seen()), file.read_bytes()
        is_packed = body.startswith(b"\x1f\x8b")
        body = gzip.decompress(body) if is_packed else body
        body = body.replace(b"wamid.BY", b"wamid.%b.BY" % file.name[:4].encode())  # else it is a copy of another case
        assert up.post_all([gzip.compress(body) if is_packed else body]) == [200]
        wait_for(lambda: len(up.seen()) >= before + 2, 30, file.name)  # noqa: B023
    others = [file.read_bytes() for name in ("by13", "by16") for file in CASES.glob(f"{name}-*.json")]
    assert up.post_all(others) == [200, 200]
    wait_for(lambda: up.status()["counts"].get("foreign.notification") == 2)
    assert sum(lane["dead"] for lane in up.status()["lanes"].values()) == 0


def test_large_bodies(up: Up, wait_for: Callable[..., None]) -> None:
    """One body with 1,000 statuses and one of 3 MB are answered 200, and every element is handled."""
    up.start()
    thousand = json.dumps({"statuses": [{"id": f"a{n}", "status": "read"} for n in range(1000)]}).encode()
    text = "x" * 3000
    large = json.dumps(
        {"messages": [{"from": str(n), "id": f"b{n}", "type": "text", "text": {"body": text}} for n in range(1000)]}
    ).encode()
    assert 3_000_000 < len(large) < 4 << 20
    assert up.post_all([thousand, large]) == [200, 200]
    wait_for(lambda: len(up.seen()) >= 2000, 60)
    assert {id for _, id in up.seen()} == {f"{letter}{n}" for letter in "ab" for n in range(1000)}
    assert len(up.seen()) == 2000


def test_strange_bodies(up: Up, wait_for: Callable[..., None]) -> None:
    """Whatever is posted gets its documented answer, becomes the right dead letter, and the worker lives on."""
    up.start()
    bodies = {
        b"{}": "unknown_form",
        b'{"wadebug_webhook_test":"test"}': "unknown_form",
        b"[]": "unreadable",
        b"nonsense": "unreadable",
        b"": "unreadable",
        b'{"entry":[{}]}': "unknown_form",
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}": "unreadable",
        b'{"statuses":[{"id":"\xff\xfe"}': "unreadable",
    }
    assert up.post_all(list(bodies), connections=1) == [200] * len(bodies)
    assert up.post_all([b"x" * ((4 << 20) + 1)]) == [413]
    assert up.post_all([_status(1)]) == [200]
    wait_for(lambda: len(up.seen()) == 1)
    wait_for(lambda: sum(lane["dead"] for lane in up.status()["lanes"].values()) == len(bodies))
    with Redis(unix_socket_path=f"{up.folder}/data/valkey.sock") as redis:
        letters: Any = [fields for lane in load().lanes for _, fields in redis.xrange(keys.dead_key(lane))]
    assert {letter[b"body"]: letter[b"reason"].decode() for letter in letters} == bodies


def test_backlog_is_compact_and_drains(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30,000 waiting notifications are at most 90 RQ jobs and 1.25 times their bytes; workers bring them to 0."""
    bodies = [
        b'{"contacts":[{"profile":{"name":"Kerry Fisher"},"wa_id":"1631555%04d"}],"messages":[{"from":"1631555%04d",'
        b'"id":"ABGGFlA5FpafAgo6tHcNmNjX%08d","timestamp":"1518694235","text":{"body":"Hello this is an answer"},'
        b'"type":"text"}]}' % (n % 5000, n % 5000, n)
        for n in range(30_000)
    ]

    async def commit_all() -> None:
        committer = make_committer(load())
        left = iter(bodies)

        async def work() -> None:
            for body in left:
                await committer.commit(body, 1_700_000_000_000, route(body, 8))

        await asyncio.gather(*[work() for _ in range(200)])
        await committer.aclose()

    asyncio.run(_warm_up())
    before: int = redis.info("memory")["used_memory"]  # type: ignore[index]
    asyncio.run(commit_all())
    used: int = redis.info("memory")["used_memory"] - before  # type: ignore[index]
    assert used <= 1.25 * sum(map(len, bodies))
    assert len(list(redis.scan_iter(f"{keys.RQ}:job:*", count=1000))) <= 90

    (tmp_path / "recorder.py").write_text(RECORDER)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("WA_HANDLERS", "recorder:handlers")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run(
        [sys.executable, "-m", "workers.cli", "work", "--burst", "--processes", "2"],
        cwd=tmp_path,
        check=True,
        timeout=100,
    )
    assert len(set((tmp_path / "seen").read_text().splitlines())) == len(bodies)
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "workers.cli", "status", "--json"], cwd=ROOT, capture_output=True, check=True
        ).stdout
    )
    assert {lane["waiting"] + lane["working"] + lane["retrying"] for lane in shown["lanes"].values()} == {0}


async def _warm_up() -> None:
    committer = make_committer(load())
    assert await committer.probe() is None
    await committer.aclose()


def test_term_under_load(up: Up, wait_for: Callable[..., None]) -> None:
    """SIGTERM to `up` in the middle of a load: what got 200 is handled, before the stop or after the next start."""
    acknowledged: set[str] = set()
    rounds = 2
    for round_ in range(rounds):
        up.start()
        bodies = [_status(round_ * 1_000_000 + n) for n in range(100_000)]

        async def load_until_refused(bodies: list[bytes] = bodies, first: int = round_ * 1_000_000) -> None:
            left = iter(range(len(bodies)))
            loop = asyncio.get_running_loop()
            stopping = asyncio.Event()

            async def work() -> None:
                async with aiohttp.ClientSession() as session:
                    for n in left:
                        try:
                            if await up.post(session, bodies[n]) == 200:
                                acknowledged.add(f"s{first + n}")
                        except (aiohttp.ClientError, OSError):
                            return
                        if n == 1000:
                            stopping.set()

            tasks = [asyncio.create_task(work()) for _ in range(16)]
            await stopping.wait()
            assert await loop.run_in_executor(None, up.stop) == 0
            await asyncio.gather(*tasks)

        asyncio.run(load_until_refused())
    assert len(acknowledged) > 1000 * rounds
    up.start()
    wait_for(lambda: acknowledged <= {id for _, id in up.seen()}, 60)
    seen = [id for _, id in up.seen()]
    assert len(seen) == len(set(seen))
