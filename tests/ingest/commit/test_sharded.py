"""Several Redis: which one a notification goes to, and what happens when that cannot keep it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.commit.committer import Committer, NotDurable, make_committer
from ingest.commit.group_commit import GroupCommit
from ingest.routing import home, route
from ingest.settings import SettingsError, each_redis, load
from ingest.store import keys
from ingest.store.records import pack
from ingest.store.urls import address

BODIES = {
    "onprem": b'{"statuses":[{"id":"%s","recipient_id":"1","status":"%s"}]}',
    "spaces": b'{"statuses": [ {"status" : "x", "id" : "%s", "s": "%s"} ]}',
    "cloud": b'{"entry":[{"id":"1","changes":[{"field":"messages","value":{"metadata":{"id":"2"},'
    b'"statuses":[{"id":"%s","status":"%s","conversation":{"id":"c"}}]}}]}]}',
}


@pytest.mark.parametrize("form", BODIES)
def test_statuses_of_a_message_stay_together(form: str) -> None:
    """All stages of a message have one home, so that one that comes late is known; messages are spread."""
    homes: Counter[int] = Counter()
    for n in range(300):
        of_one = {
            home("statuses", BODIES[form] % (b"id%d" % n, stage), 3) for stage in (b"sent", b"delivered", b"read")
        }
        assert len(of_one) == 1
        homes[of_one.pop()] += 1
    assert min(homes[n] for n in range(3)) > 60


@given(st.binary(), st.integers(1, 20), st.sampled_from(["statuses", "other", "messages.0", "messages.7"]))
def test_every_body_has_a_home(body: bytes, count: int, queue: str) -> None:
    """Whatever the bytes are, they have a home; of a message it is that of its partition."""
    found = home(queue, body, count)
    assert 0 <= found < count
    if queue == "messages.7":
        assert found == 7 % count


def test_each_redis() -> None:
    """Commas inside of sentinel and cluster URLs separate no Redis; each keeps the other settings."""
    urls = [
        "redis://:p@ss@one:1/0",
        "redis+sentinel://a:1,b:2/main/0",
        "unix:///tmp/x.sock?db=1",
        "rediss+cluster://c:1,d:2",
        "rediss://e/3",
    ]
    each = each_redis(load(redis_url=", ".join(urls), partitions=5))
    assert [one.redis_url.get_secret_value() for one in each] == urls  # type: ignore[union-attr]
    assert {one.partitions for one in each} == {5}
    addresses = ["one:1/0", "a:1,b:2/main/0", "/tmp/x.sock?db=1", "c:1,d:2", "e/3"]
    assert [address(url) for url in urls] == addresses
    with pytest.raises(SettingsError, match="WA_REDIS_URL names the same Redis twice"):
        each_redis(load(redis_url="redis://a,redis://a"))


def _message(*contacts: str) -> bytes:
    return orjson.dumps({"messages": [{"id": f"of{c}", "from": c, "type": "text"} for c in contacts]})


@pytest.fixture
def run(own_valkey: Callable[..., Any]) -> Callable[..., Any]:
    """Run an async function with a committer for two Valkeys, and these."""

    def go(test: Callable[..., Any], **settings: Any) -> None:
        servers = [own_valkey(), own_valkey()]
        current = load(redis_url=",".join(server.url for server in servers), **settings)

        async def inner() -> None:
            keeper = make_committer(current)
            try:
                await test(keeper, *servers)
            finally:
                await keeper.aclose()

        asyncio.run(inner())

    return go


async def _commit(keeper: Committer, *bodies: bytes) -> None:
    await asyncio.gather(*(keeper.commit(body, 1_700_000_000_000, route(body, 8)) for body in bodies))


def test_one_is_plain(redis_url: str) -> None:
    """One Redis has the plain group commit: nothing stands in its way."""

    async def go() -> None:
        keeper = make_committer(load())
        assert type(keeper._group) is GroupCommit
        await keeper.aclose()

    asyncio.run(go())


def test_contacts_of_a_notification(run: Callable[..., Any], kept: Callable[..., Any]) -> None:
    """A notification of several contacts goes to the home of each, for its contacts there."""

    async def test(keeper: Committer, first: Any, second: Any) -> None:
        contacts = [str(n) for n in range(30)]
        await _commit(keeper, _message(*contacts))
        queues = [kept(server.client()) for server in (first, second)]
        assert [sorted(found) for found in queues] == [
            [f"messages.{n}" for n in range(start, 8, 2)] for start in (0, 1)
        ]
        assert all(record.shares for found in queues for (record,) in found.values())

    run(test)


def test_headers(run: Callable[..., Any], kept: Callable[..., Any]) -> None:
    """Headers are kept with each part of a notification, and change nothing about its home."""

    async def test(keeper: Committer, first: Any, second: Any) -> None:
        body = _message(*map(str, range(30)))
        await keeper.commit(body, 1, route(body, 8), b'{"a":"b"}')
        queues = [kept(server.client()) for server in (first, second)]
        assert [sorted(found) for found in queues] == [
            [f"messages.{n}" for n in range(start, 8, 2)] for start in (0, 1)
        ]
        assert {record.headers for found in queues for (record,) in found.values()} == {b'{"a":"b"}'}

    run(test)


def test_repeated_call(run: Callable[..., Any], kept: Callable[..., Any]) -> None:
    """A call that comes again under its name is stored once, also where one Redis has the shares of both; with other
    content under that name, which another division of it may bring, it is stored.
    """

    async def test(keeper: Committer, first: Any, second: Any) -> None:
        def records(*numbers: int) -> dict[str, list[bytes]]:
            return {f"messages.{n}": [pack(b"%d" % n, 1)] for n in numbers}

        def stored(server: Any) -> list[int]:
            return sorted(int(r.body) for found in kept(server.client()).values() for r in found)

        for numbers in ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 4)):
            assert await keeper._writer.write(records(*numbers), (), None, "n1-1") is None
        assert (stored(first), stored(second)) == ([0, 0, 2, 2, 4], [1, 1, 3])
        first.stop()
        for _ in range(2):
            assert await keeper._writer.write(records(5, 6), (), None, "n1-2") is None
        assert stored(second) == [1, 1, 3, 5, 6]

    run(test)


def test_next_one_and_back(run: Callable[..., Any]) -> None:
    """What one cannot keep goes to the other until a probe succeeds; with none left it is not durable."""

    async def test(keeper: Committer, first: Any, second: Any) -> None:
        bodies = [_message(str(n)) for n in range(20)]
        there = second.client()
        first.stop()
        await _commit(keeper, *bodies)
        assert await keeper.probe() is None
        assert there.hlen(keys.TAILS) == 16  # all eight partitions, two fields each
        there.config_set("maxmemory", 1)
        with pytest.raises(NotDurable, match="Redis refuses: "):
            await _commit(keeper, _message("1"))
        assert "Redis refuses" in str(await keeper.probe())
        first.start()
        there.config_set("maxmemory", 0)
        async with asyncio.timeout(30):
            await asyncio.gather(*keeper._writer._away.values())
        await _commit(keeper, *bodies)
        assert sorted(first.client().zrange(keys.LEDGER, 0, -1))[0].startswith(b"messages.0|")

    run(test)
