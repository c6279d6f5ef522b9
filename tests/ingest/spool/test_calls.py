"""A call to Redis whose answer was lost: it is repeated under its name, and nothing is stored twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.commit.committer import Committer, make_committer
from ingest.routing import Route
from ingest.settings import load
from ingest.spool import fallback as fallback_room
from ingest.spool.spool import Spool
from ingest.store import connection
from ingest.store.records import Record

STATUSES = (Route("statuses"),)
Kept = Callable[[Redis], dict[str, list[Record]]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis counts as away soon."""
    monkeypatch.setattr(connection, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(fallback_room, "PROBE_SECONDS", 0.05)


class Line:
    """A way to a Valkey on which answers get lost while it is `deaf`; what is sent arrives."""

    def __init__(self, path: Path) -> None:
        self.deaf = False
        self._path = path

    @asynccontextmanager
    async def open(self, port: int) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        async with server:
            yield f"redis://127.0.0.1:{port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_unix_connection(self._path)
        await asyncio.gather(self._pass_on(reader, to_there, True), self._pass_on(there, writer, False))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 18):
                if there or not self.deaf:
                    writer.write(data)
                    await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(url: str, folder: Path) -> AsyncIterator[Committer]:
    """A receiver's committer, with its replay."""
    committer = make_committer(load(redis_url=url), Spool(folder))
    assert committer.fallback is not None
    replay = asyncio.create_task(committer.fallback.run())
    try:
        yield committer
    finally:
        committer.fallback.stop()
        await replay
        await committer.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def counted(kept: Kept, redis: Redis) -> Counter[bytes]:
    """The bodies that Redis holds, each with how often."""
    return Counter(record.body for record in kept(redis)["statuses"])


def in_use(committer: Committer) -> bool:
    assert committer.fallback is not None
    return committer.fallback.in_use()


def test_frozen_redis(own_valkey: Callable[..., Any], tmp_path: Path, kept: Kept) -> None:
    """What a frozen Redis carries out when it goes on, after the receiver gave up, is not stored again by a replay."""
    server = own_valkey()

    async def scenario() -> None:
        async with receiving(server.url, tmp_path) as committer:
            await committer.commit(b'{"statuses":[]}0', 0, STATUSES)
            server.freeze()
            await asyncio.gather(*(committer.commit(b'{"statuses":[]}%d' % n, n, STATUSES) for n in range(1, 20)))
            assert in_use(committer)
            server.thaw()
            await until(lambda: not in_use(committer))
            await committer.commit(b'{"statuses":[]}20', 20, STATUSES)

    asyncio.run(scenario())
    assert counted(kept, server.client()) == {b'{"statuses":[]}%d' % n: 1 for n in range(21)}
    assert not list(tmp_path.glob("*.call"))


def test_large_commit_whose_answer_is_lost(
    own_valkey: Callable[..., Any], low_port: Callable[[], int], tmp_path: Path, kept: Kept
) -> None:
    """A commit of many megabytes that Redis has, though its answer never came, is stored once, and in order."""
    server = own_valkey()
    bodies = [b'{"statuses":[]}%03d' % n + bytes(60_000) for n in range(100)]

    async def scenario() -> None:
        line = Line(server.path)
        async with line.open(low_port()) as url, receiving(url, tmp_path) as committer:
            await committer.commit(b"first", 0, STATUSES)
            line.deaf = True
            await asyncio.gather(*(committer.commit(body, 1, STATUSES) for body in bodies))
            assert len(kept(server.client())["statuses"]) == 101
            line.deaf = False
            await until(lambda: not in_use(committer))

    asyncio.run(scenario())
    assert [record.body for record in kept(server.client())["statuses"]] == [b"first", *bodies]


@pytest.mark.parametrize("dies", [False, True])
def test_replay_whose_answer_is_lost(
    own_valkey: Callable[..., Any],
    low_port: Callable[[], int],
    tmp_path: Path,
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
    dies: bool,
) -> None:
    """A call of the replay is repeated as it was, by the same process or by the next one, though more was spooled."""
    monkeypatch.setattr(fallback_room, "CALL_RECORDS", 10)
    server = own_valkey()
    redis = server.client()
    bodies = [b'{"statuses":[]}%d' % n for n in range(36)]
    Spool(tmp_path).append(list(enumerate(bodies[:35])))

    async def scenario() -> None:
        line = Line(server.path)
        async with line.open(low_port()) as url:
            async with receiving(url, tmp_path) as committer:
                write, sent = committer._writer.write, 0

                async def second_is_lost(*call: Any) -> str | None:
                    nonlocal sent
                    sent += bool(call[0])
                    line.deaf = sent == 2 and bool(call[0])
                    if line.deaf:
                        await committer.commit(bodies[35], 35, STATUSES)
                    return await write(*call)

                monkeypatch.setattr(committer._writer, "write", second_is_lost)
                await until(lambda: sent == 2 and len(kept(redis)["statuses"]) == 20)
                if not dies:
                    await until(lambda: not in_use(committer))
            line.deaf = False
            async with receiving(url, tmp_path) as another:
                await until(lambda: not in_use(another))

    asyncio.run(scenario())
    assert counted(kept, redis) == dict.fromkeys(bodies, 1)
    assert not list(tmp_path.glob("*.call"))
