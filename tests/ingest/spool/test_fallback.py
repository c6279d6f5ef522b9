"""When notifications go to the disk and when to Redis again, with a Redis that does as the test says."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.commit.committer import make_committer
from ingest.routing import Route, Router
from ingest.settings import load
from ingest.spool import fallback as fallback_room
from ingest.spool import spool
from ingest.spool.fallback import SpoolFallback
from ingest.spool.spool import Spool
from ingest.state.spooled import spool_figures
from ingest.store.records import Record, unpack

STATUS = b'{"statuses":[]}'


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


class Fake:
    """Redis: `answers` are the reasons for which the next calls with records fail; probes succeed."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.calls: list[list[bytes]] = []
        self.kept: list[bytes] = []

    async def write(self, records: dict[str, list[bytes]], *_: object) -> str | None:
        bodies = [unpack(record).body for several in records.values() for record in several]
        self.calls.append(bodies)
        reason = self.answers.pop(0) if self.answers else None
        if reason is None:
            self.kept += bodies
        return reason

    async def probe(self) -> None:
        pass


def drain(folder: Path, redis: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process replay the folder until nothing is left in it."""
    monkeypatch.setattr(fallback_room, "PROBE_SECONDS", 0.01)

    async def scenario() -> None:
        found = Spool(folder)
        fallback = SpoolFallback(found, redis, Router(8))
        task = asyncio.create_task(fallback.run())
        await until(lambda: not fallback.in_use())
        fallback.stop()
        await task
        await until(lambda: len(asyncio.all_tasks()) == 1)  # what other processes still do

    asyncio.run(scenario())


def test_calls_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay takes as much in a call as a flush may, and no more, in order."""
    bodies = [STATUS + b"%d" % n for n in range(9000)]
    large = [STATUS + b"%d" % n + bytes(3 << 20) for n in range(6)]
    Spool(tmp_path).append([(n, body) for n, body in enumerate(bodies + large)])
    redis = Fake()
    drain(tmp_path, redis, monkeypatch)
    assert redis.kept == bodies + large
    assert [len(call) for call in redis.calls] == [4000, 4000, 1003, 3]


def test_call_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    """What Redis did not take stays, and is the next that it gets; what it took is not repeated."""
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 10)
    bodies = [STATUS + b"%d" % n for n in range(55)]
    process = Spool(tmp_path)
    for start in range(0, 55, 5):
        process.append([(n, bodies[n]) for n in range(start, start + 5)])
    redis = Fake(None, None, "full", "full", None, "full")
    drain(tmp_path, redis, monkeypatch)
    assert redis.kept == bodies
    assert redis.calls[2] == redis.calls[3] == redis.calls[4] == bodies[20:30]
    assert redis.calls[5] == bodies[30:40]
    (done,) = logged
    assert (done["event"], done["notifications"]) == ("Redis has all that was spooled", 55)
    assert 0 < done["seconds"] < 30
    assert not list(tmp_path.glob("*.spool"))


def test_nothing_is_removed_before_redis_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of each call, all that Redis has not acknowledged is on the disk."""
    process = Spool(tmp_path)
    for n in range(50):
        process.append([(n, STATUS + b"%d" % n)])
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 7)
    owed: list[int] = []

    class Watching(Fake):
        async def write(self, records: dict[str, list[bytes]], *_: object) -> str | None:
            owed.append(len(list(spool.read(Spool(tmp_path).unreplayed()))) + len(self.kept))
            return await super().write(records)

    redis = Watching()
    drain(tmp_path, redis, monkeypatch)
    assert len(redis.kept) == 50
    assert owed == [50] * 8


def test_spool_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the spool cannot be read nothing overtakes it; the reason is shown."""
    Spool(tmp_path).append([(1, STATUS)])
    redis, real = Fake(), spool.read

    def broken(_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    async def refuse() -> str | None:
        raise AssertionError("it would overtake what is spooled")

    async def scenario() -> None:
        fallback = SpoolFallback(Spool(tmp_path), redis, Router(8))
        task = asyncio.create_task(fallback.run())
        await until(lambda: fallback.reason == "the spool cannot be replayed: Input/output error")
        assert await fallback.keep([(2, STATUS + b"2")], refuse, "n1") is None
        assert redis.kept == []
        monkeypatch.setattr(spool, "read", real)
        await until(lambda: fallback.reason is None)
        fallback.stop()
        await task

    monkeypatch.setattr(fallback_room, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(spool, "read", broken)
    asyncio.run(scenario())
    assert redis.kept == [STATUS, STATUS + b"2"]


def test_stop_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a stop the call under way is finished and noted; the rest stays for the next start."""
    bodies = [STATUS + b"%d" % n for n in range(50)]
    Spool(tmp_path).append(list(enumerate(bodies)))
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 10)

    async def scenario() -> Fake:
        class Stopping(Fake):
            async def write(self, records: dict[str, list[bytes]], *_: object) -> str | None:
                if len(self.calls) == 1:
                    fallback.stop()
                return await super().write(records)

        redis = Stopping()
        fallback = SpoolFallback(Spool(tmp_path), redis, Router(8))
        async with asyncio.timeout(30):
            await fallback.run()
        return redis

    first = asyncio.run(scenario())
    assert first.kept == bodies[:20]
    second = Fake()
    drain(tmp_path, second, monkeypatch)
    assert second.kept == bodies[20:]


def test_replay_that_arrivals_never_let_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another process appends during every call, replay comes to an end: the last appends have to wait."""
    Spool(tmp_path).append([(0, STATUS)])
    other, waits, real = Spool(tmp_path), asyncio.Event(), spool._lock
    appends: list[asyncio.Task[bool]] = []

    class Busy(Fake):
        async def write(self, records: dict[str, list[bytes]], *_: object) -> str | None:
            arrived = [(len(appends) + 1, STATUS + b"%d" % len(appends))]
            appends.append(asyncio.create_task(asyncio.to_thread(other.append, arrived, unless_empty=True)))
            await until(lambda: appends[-1].done() or waits.is_set())
            assert len(appends) < 50
            return await super().write(records)

    def lock(fd: int, how: int) -> bool:
        got = real(fd, how)
        if not got:
            waits.set()
        return got

    monkeypatch.setattr(spool, "_lock", lock)
    redis = Busy()
    drain(tmp_path, redis, monkeypatch)
    kept = [append.result() for append in appends]
    assert kept == [True] * (len(kept) - 1) + [False]
    assert redis.kept == [STATUS] + [STATUS + b"%d" % n for n in range(len(kept) - 1)]


def test_switch_back_under_load(
    redis: Redis, redis_url: str, tmp_path: Path, kept: Callable[[Redis], dict[str, list[Record]]]
) -> None:
    """Though notifications never cease to arrive in two processes, both come to use Redis again; order is kept."""
    place = (Route("statuses"),)

    async def scenario() -> list[int]:
        settings = load(redis_url=redis_url)
        committers = [make_committer(settings, Spool(tmp_path)) for _ in range(2)]
        fallbacks = [committer.fallback for committer in committers if committer.fallback]
        tasks = [asyncio.create_task(fallback.run()) for fallback in fallbacks]
        counts, over = [0] * 150, False

        async def send(contact: int) -> None:
            while not over:
                committer = committers[counts[contact] % 2]
                body = STATUS + b"%d-%d" % (contact, counts[contact])
                await committer.commit(body, time.time_ns() // 1_000_000, place)
                counts[contact] += 1

        senders = [asyncio.create_task(send(contact)) for contact in range(len(counts))]
        for _ in range(2):
            await until(lambda: not any(fallback.in_use() for fallback in fallbacks))
            redis.config_set("maxmemory", 1)
            await until(lambda: spool_figures(tmp_path).notifications > 2000)
            redis.config_set("maxmemory", 0)
        await until(lambda: not any(fallback.in_use() for fallback in fallbacks))
        over = True
        await asyncio.gather(*senders)
        # An append that began while Redis was away may end just after the replay that found nothing left.
        await until(lambda: not any(fallback.in_use() for fallback in fallbacks))
        for fallback in fallbacks:
            fallback.stop()
        await asyncio.gather(*tasks)
        for committer in committers:
            await committer.aclose()
        return counts

    counts = asyncio.run(scenario())
    assert spool_figures(tmp_path).notifications == 0
    found: list[list[int]] = [[] for _ in counts]
    for record in kept(redis)["statuses"]:
        contact, _, number = record.body.removeprefix(STATUS).partition(b"-")
        found[int(contact)].append(int(number))
    assert found == [list(range(count)) for count in counts]


class Full(Fake):
    """A Redis with little room: it refuses more than `room` notifications in a call."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def write(self, records: dict[str, list[bytes]], *_: object) -> str | None:
        too_many = sum(map(len, records.values())) > self.room
        self.answers = [f"{fallback_room.FULL}: no more"] if too_many else []
        return await super().write(records)


@pytest.mark.parametrize("room", [1, 3, 50])
def test_smaller_calls_to_a_full_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """What does not fit is sent in halves, down to one notification; all arrives in order, each once."""
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 100)
    bodies = [STATUS + b"%d" % n for n in range(400)]
    Spool(tmp_path).append(list(enumerate(bodies)))
    redis = Full(room)
    drain(tmp_path, redis, monkeypatch)
    assert redis.kept == bodies
    assert max(len(call) for call in redis.calls if len(call) <= room) == room
    refused = sum(len(call) > room for call in redis.calls)
    assert refused < len(redis.calls) / 2 if room > 1 else refused <= len(redis.calls) / 2 + 10


def test_calls_grow_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is room, calls become as large as before."""
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 64)
    bodies = [STATUS + b"%d" % n for n in range(3000)]
    Spool(tmp_path).append(list(enumerate(bodies)))
    redis = Fake(*[f"{fallback_room.FULL}: no more"] * 6)
    drain(tmp_path, redis, monkeypatch)
    assert redis.kept == bodies
    assert [len(call) for call in redis.calls[:8]] == [64, 32, 16, 8, 4, 2, 1, 2]
    assert len(redis.calls[-2]) == 64


def test_one_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    """A single notification that does not fit is no endless loop: the next probe comes first."""
    Spool(tmp_path).append([(0, STATUS)])
    redis = Fake(*[f"{fallback_room.FULL}: no more"] * 3)
    drain(tmp_path, redis, monkeypatch)
    assert [len(call) for call in redis.calls] == [1, 1, 1, 1]
    assert [line["event"] for line in logged] == ["Redis has all that was spooled"]
