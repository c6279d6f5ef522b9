"""Group commit against real Valkeys: one call for all that arrived meanwhile, and every way in which Redis may fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis

from ingest.commit import group_commit
from ingest.commit.committer import Committer, NotDurable, make_committer
from ingest.commit.group_commit import GroupCommit
from ingest.commit.redis_writer import RedisWriter
from ingest.routing import Route, Router, route
from ingest.settings import load
from ingest.store import connection, constants, keys
from ingest.store.links import GENERATION_SECONDS, digest_of
from ingest.store.records import Record, pack, unpack
from ingest.telemetry.outage import Outage

STATUSES = (Route("statuses"),)
SECRET_BODY = b'{"text":"Kerry Fisher, 16315551234"}'
Kept = Callable[[Redis], dict[str, list[Record]]]


@asynccontextmanager
async def committing(url: str, **settings: Any) -> AsyncIterator[Committer]:
    """A committer as the receiver has it."""
    committer = make_committer(load(redis_url=url, **settings))
    try:
        yield committer
    finally:
        await committer.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition is true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def refusal(keeper: Committer, body: bytes = SECRET_BODY) -> str:
    """The reason why a commit fails; it must not hold the body, nor may the error's chain be longer than that."""
    with pytest.raises(NotDurable) as caught:
        await keeper.commit(body, 1, STATUSES)
    assert b"Kerry" not in repr(caught.value).encode()
    assert caught.value.__cause__ is None
    return str(caught.value)


def calls(redis: Redis) -> int:
    """Script calls since the last CONFIG RESETSTAT."""
    return int(redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_body_is_kept_byte_for_byte(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A record holds the body as it came, when it came, attempt 1 and the shares."""
    body = bytes(range(256)) * 4

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            await keeper.commit(body, 1_795_255_946_789, (Route("messages.1", b"two"), Route("messages.4", b"two")))
            await keeper.commit(b"", 1_795_255_946_790, (Route("other"),))

    asyncio.run(scenario())
    copy = [unpack(pack(body, 1_795_255_946_789, attempt=1, shares=b"two"))]
    last = [unpack(pack(b"", 1_795_255_946_790))]
    assert kept(redis) == {"messages.1": copy, "messages.4": copy, "other": last}


def test_arrivals_during_a_call_go_together(redis: Redis, redis_url: str, kept: Kept) -> None:
    """All that arrives while one call is under way goes into the next one, in the order of arrival."""

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"0", 0, STATUSES)  # loads the script
            redis.config_resetstat()
            redis.client_pause(60_000, all=False)  # the next call will be under way until it is released
            tasks = [asyncio.create_task(keeper.commit(b"1", 1, STATUSES))]
            await until(lambda: redis.info("clients")["blocked_clients"])
            tasks += [asyncio.create_task(keeper.commit(b"%d" % n, n, STATUSES)) for n in range(2, 200)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
            redis.client_unpause()
            await asyncio.gather(*tasks)

    try:
        asyncio.run(scenario())
    finally:
        redis.client_unpause()
    assert calls(redis) == 2
    assert [record.body for record in kept(redis)["statuses"]] == [b"%d" % n for n in range(200)]


def test_thousand_at_once_are_few_calls(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A thousand concurrent commits cost a few calls, and each is kept once."""

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"first", 0, STATUSES)
            redis.config_resetstat()
            routes = [(Route(f"messages.{n % 8}"),) for n in range(1000)]
            await asyncio.gather(*(keeper.commit(b"%d" % n, n, routes[n]) for n in range(1000)))

    asyncio.run(scenario())
    assert 1 <= calls(redis) <= 4
    bodies = sorted(int(r.body) for q, records in kept(redis).items() if q != "statuses" for r in records)
    assert bodies == list(range(1000))


def test_flush_is_bounded(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A call takes no more once it holds enough bytes or records; what exceeds it goes in the next, in order."""
    large = [b"%d" % n + b"." * (1 << 20) for n in range(20)]
    small = [b"%d" % n for n in range(group_commit.FLUSH_RECORDS * 2 + 1)]

    async def scenario() -> list[int]:
        counts = []
        async with committing(redis_url) as keeper:
            await keeper.commit(b"first", 0, (Route("other"),))
            for bodies in (large, small):
                redis.config_resetstat()
                await asyncio.gather(*(keeper.commit(body, 0, STATUSES) for body in bodies))
                counts.append(calls(redis))
        return counts

    assert asyncio.run(scenario()) == [3, 3]
    assert [record.body for record in kept(redis)["statuses"]] == large + small


def test_flush_counts_copies(redis: Redis, redis_url: str) -> None:
    """What goes to several partitions counts as often as it is written: no call holds more than it may."""
    body, routes = bytes(1 << 20), tuple(Route(f"messages.{n}") for n in range(3))

    async def scenario() -> int:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"first", 0, (Route("other"),))
            redis.config_resetstat()
            await asyncio.gather(*(keeper.commit(body, 0, routes) for _ in range(6)))
            return calls(redis)

    assert asyncio.run(scenario()) == 3


def test_full_redis_refuses(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A full Redis: all who wait are told why, nothing is kept, and it goes on when there is room again."""

    async def scenario() -> list[str]:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            redis.config_set("maxmemory", 1)
            reasons = await asyncio.gather(*(refusal(keeper) for _ in range(50)))
            reasons.append(str(await keeper.probe()))
            redis.config_set("maxmemory", 0)
            await keeper.commit(b"2", 2, STATUSES)
            assert await keeper.probe() is None
            return reasons

    for reason in asyncio.run(scenario()):
        assert reason.startswith("Redis refuses: ")
        assert "OOM" in reason or "maxmemory" in reason
    assert [record.body for record in kept(redis)["statuses"]] == [b"1", b"2"]


def test_redis_that_was_stopped(own_valkey: Callable[..., Any], kept: Kept) -> None:
    """While Redis is away commits fail at once; when it is back, empty, the same committer works, script and all."""
    server = own_valkey()

    async def scenario() -> list[str]:
        async with committing(server.url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            server.stop()
            began = time.monotonic()
            reasons = await asyncio.gather(*(refusal(keeper) for _ in range(20)))
            reasons.append(str(await keeper.probe()))
            assert time.monotonic() - began < connection.COMMAND_SECONDS
            server.start()
            await keeper.commit(b"2", 2, STATUSES)
            assert await keeper.probe() is None
            return reasons

    assert set(asyncio.run(scenario())) == {"Redis is away: ConnectionError"}
    assert [record.body for record in kept(server.client())["statuses"]] == [b"2"]


def test_redis_that_is_not_there_yet(own_valkey: Callable[..., Any]) -> None:
    """A committer that never saw Redis works as soon as there is one."""
    server = own_valkey(running=False)

    async def scenario() -> None:
        async with committing(server.url) as keeper:
            assert (await refusal(keeper)).startswith("Redis is away: ")
            server.start()
            await keeper.commit(b"1", 1, STATUSES)

    asyncio.run(scenario())


def test_connection_that_died_while_idle(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A connection that was cut while nobody used it costs no sender a 503, and keeps nothing twice."""

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            redis.client_kill_filter(_type="normal", skipme=True)
            await keeper.commit(b"2", 2, STATUSES)

    asyncio.run(scenario())
    assert [record.body for record in kept(redis)["statuses"]] == [b"1", b"2"]


def test_script_that_was_flushed(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A Redis that lost its scripts gets ours again, nobody notices."""

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            redis.script_flush()
            await keeper.commit(b"2", 2, STATUSES)

    asyncio.run(scenario())
    assert [record.body for record in kept(redis)["statuses"]] == [b"1", b"2"]


def test_redis_that_hangs(own_valkey: Callable[..., Any], kept: Kept) -> None:
    """A Redis that does not answer counts as away after the command time-out, and is used again when it does."""
    server = own_valkey()

    async def scenario() -> None:
        async with committing(server.url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            server.freeze()
            began = time.monotonic()
            assert await refusal(keeper) == "Redis is away: TimeoutError"
            assert time.monotonic() - began < connection.COMMAND_SECONDS * 10
            server.thaw()
            await keeper.commit(b"2", 2, STATUSES)

    asyncio.run(scenario())
    # The refused one may have been read by Redis later: the sender tries again, so it is at least once.
    bodies = [record.body for record in kept(server.client())["statuses"]]
    assert [body for body in bodies if body != SECRET_BODY] == [b"1", b"2"]


def test_a_large_commit_has_more_time(
    own_valkey: Callable[..., Any], kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that stalls for longer than a small commit waits does not make a large one fail."""
    monkeypatch.setattr(connection, "COMMAND_SECONDS", 0.3)
    server, bodies = own_valkey(), [b"%d" % n + bytes(4 << 20) for n in range(4)]

    async def scenario() -> None:
        async with committing(server.url) as large, committing(server.url) as small:
            await asyncio.gather(*(keeper.commit(b"", 0, (Route("other"),)) for keeper in (large, small)))
            server.freeze()
            under_way = [asyncio.create_task(large.commit(body, 1, STATUSES)) for body in bodies]
            assert await refusal(small) == "Redis is away: TimeoutError"
            server.thaw()
            await asyncio.gather(*under_way)

    asyncio.run(scenario())
    assert [record.body for record in kept(server.client())["statuses"] if record.body != SECRET_BODY] == bodies


def test_paused_redis(redis: Redis, redis_url: str) -> None:
    """A Redis that holds writes up (CLIENT PAUSE during a failover) for longer than the time-out counts as away."""

    async def scenario() -> str:
        async with committing(redis_url) as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            redis.client_pause(60_000, all=False)
            return await refusal(keeper)

    try:
        assert asyncio.run(scenario()) == "Redis is away: TimeoutError"
    finally:
        redis.client_unpause()


def test_error_of_the_event_loop(redis_url: str) -> None:
    """uvloop's RuntimeError about a closed transport fails one commit; the next one works (once it hung for ever)."""

    class Closing:
        """A client whose transport closes under it once: real timing cannot be had."""

        def __init__(self, real: Any) -> None:
            self.real, self.script_load, self.get, self.set = real, real.script_load, real.get, real.set
            self.failed = False

        async def execute_command(self, *args: Any) -> Any:
            if not self.failed:
                self.failed = True
                raise RuntimeError("unable to perform operation on <UnixTransport>; the handler is closed")
            return await self.real.execute_command(*args)

    async def scenario() -> None:
        redis = connection.for_receiver(redis_url)
        writer = RedisWriter(Closing(redis), load(), Outage("away", "back"))  # type: ignore[arg-type]
        keeper = Committer(GroupCommit(writer), writer, Router(8))
        try:
            async with asyncio.timeout(10):
                assert await refusal(keeper) == "Redis is away: RuntimeError"
                await keeper.commit(b"2", 2, STATUSES)
        finally:
            await redis.aclose()

    asyncio.run(scenario())


def test_demoted_redis_refuses(own_valkey: Callable[..., Any]) -> None:
    """A Redis that became a replica refuses, and the reason is in its own words."""
    server = own_valkey()
    server.client().replicaof("127.0.0.1", 1)

    async def scenario() -> str:
        async with committing(server.url) as keeper:
            return await refusal(keeper)

    assert "read only replica" in asyncio.run(scenario())


@pytest.mark.parametrize("durability", ["redis", "fsync"])
def test_no_reason_quotes_a_body(own_valkey: Callable[..., Any], durability: str) -> None:
    """Whatever Redis complains about, no reason holds a body: also not where redis-py would quote the command."""
    server = own_valkey(appendonly="yes", appendfsync="always")
    redis = server.client()

    async def scenario() -> list[str]:
        async with committing(server.url, durability=durability) as keeper:
            reasons = []
            redis.set(keys.LEDGER, "of the wrong type")
            reasons.append(await refusal(keeper))
            redis.delete(keys.LEDGER)
            redis.config_set("maxmemory", 1)
            reasons.append(await refusal(keeper))
            redis.config_set("maxmemory", 0)
            redis.acl_setuser("default", enabled=True, commands=["-evalsha"])
            reasons.append(await refusal(keeper))
            return reasons

    wrong_type, full, forbidden = asyncio.run(scenario())
    assert "WRONGTYPE" in wrong_type
    assert full.startswith("Redis refuses: ")
    assert "evalsha" in forbidden


def test_fsync(own_valkey: Callable[..., Any], kept: Kept) -> None:
    """WA_DURABILITY=fsync: a Redis that syncs once a second is asked to sync for each call, and all is kept."""
    server = own_valkey(appendonly="yes", appendfsync="everysec")

    async def scenario() -> None:
        async with committing(server.url, durability="fsync") as keeper:
            for n in range(3):
                await asyncio.gather(*(keeper.commit(b"%d" % (10 * n + i), 1, STATUSES) for i in range(10)))
            # Three calls, and the first of them again after the script was loaded.
            assert server.client().info("commandstats")["cmdstat_waitaof"]["calls"] == 4

    asyncio.run(scenario())
    assert [int(record.body) for record in kept(server.client())["statuses"]] == list(range(30))


def test_fsync_without_append_only_file(own_valkey: Callable[..., Any]) -> None:
    """WA_DURABILITY=fsync on a server whose append-only file was switched off: not durable, so not acknowledged."""
    server = own_valkey(appendonly="yes")

    async def scenario() -> str:
        async with committing(server.url, durability="fsync") as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            server.client().config_set("appendonly", "no")
            assert await keeper.probe() is not None
            return await refusal(keeper)

    assert asyncio.run(scenario()).startswith("Redis refuses: ")


def test_replicas(
    own_valkey: Callable[..., Any], low_port: Callable[[], int], wait_for: Callable[..., None], kept: Kept
) -> None:
    """WA_DURABILITY=replicas:1: acknowledged when a replica has it, refused when none does, and so on."""
    port = low_port()
    primary, replica = own_valkey(port=port, repl_diskless_sync_delay=0), own_valkey()
    replica.client().replicaof("127.0.0.1", port)
    wait_for(lambda: replica.client().info("replication")["master_link_status"] == "up")

    async def scenario() -> None:
        async with committing(primary.url, durability="replicas:1") as keeper:
            await keeper.commit(b"1", 1, STATUSES)
            assert [record.body for record in kept(replica.client())["statuses"]] == [b"1"]
            replica.freeze()
            assert await refusal(keeper) == "WAIT reached 0 of 1"  # an answer, so before the command time-out
            replica.thaw()
            await until(lambda: primary.client().wait(1, 1000) == 1)
            await keeper.commit(b"3", 3, STATUSES)

    asyncio.run(scenario())
    assert [record.body for record in kept(replica.client())["statuses"]][-1] == b"3"


@pytest.mark.parametrize(
    ("durability", "reason"), [("replicas:2", "WAIT reached 0 of 2"), ("fsync", "WAITAOF reached 0 of 1")]
)
def test_confirmation_that_does_not_come(redis_url: str, durability: str, reason: str) -> None:
    """Redis has it, but not as safely as WA_DURABILITY asks (here: no replicas, never an fsync): not acknowledged."""

    async def scenario() -> str:
        async with committing(redis_url, durability=durability) as keeper:
            return await refusal(keeper)

    assert asyncio.run(scenario()) == reason


def test_one_attempt_at_a_silent_redis(low_port: Callable[[], int]) -> None:
    """A Redis that times out is not asked a second time: the sender does not have the patience."""
    asked = []

    async def scenario() -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(1)
            await reader.read(-1)
            writer.close()

        port = low_port()
        silent = await asyncio.start_server(say_nothing, "127.0.0.1", port)
        async with silent, committing(f"redis://127.0.0.1:{port}") as keeper:
            assert await refusal(keeper) == "Redis is away: TimeoutError"

    asyncio.run(scenario())
    assert len(asked) == 1


def written(number: str | None, user: str | None, text: str = "") -> bytes:
    """A message that names its contact so."""
    names = {key: value for key, value in (("from", number), ("from_user_id", user)) if value}
    value = {"metadata": {"phone_number_id": "1"}, "messages": [names | {"text": {"body": text}}]}
    return json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]}).encode()


def test_a_link_of_another_receiver(redis: Redis, redis_url: str, kept: Kept) -> None:
    """A message with a user id alone goes to the partition of the number that another receiver process saw with it: in
    a second call, which the next such message does not need, and in order with what arrived beside it.
    """

    async def scenario() -> None:
        async with committing(redis_url) as one, committing(redis_url) as two:
            for keeper, bodies in (
                (one, [written("16315551234", "US.1", "0")]),
                (
                    two,
                    [written("16315551234", None, "1"), written(None, "US.1", "2"), written("16315551234", None, "3")],
                ),
                (two, [written(None, "US.1", "4")]),
            ):
                before = calls(redis)
                await asyncio.gather(*(keeper.commit(body, 1, keeper.route(body)) for body in bodies))
                made.append(calls(redis) - before)

    made: list[int] = []
    redis.config_resetstat()
    asyncio.run(scenario())
    ((queue, records),) = ((queue, records) for queue, records in kept(redis).items() if records)
    assert queue == route(written("16315551234", None), 32)[0].queue
    assert [json.loads(r.body)["entry"][0]["changes"][0]["value"]["messages"][0]["text"]["body"] for r in records] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    # The first call of a process finds that Redis does not know the script yet.
    assert made[1:] in ([2, 1], [3, 1])


def test_nothing_personal_in_links(redis: Redis, redis_url: str) -> None:
    """What Redis holds of a link is 12 bytes, which end with the generation after the next."""

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            for body in (written("16315551234", "US.1"), written(None, "US.9")):
                await keeper.commit(body, 1, keeper.route(body))

    asyncio.run(scenario())
    key = keys.links_key(int(time.time() // GENERATION_SECONDS))
    ((digest, contact),) = redis.hgetall(key).items()
    assert (digest, len(contact)) == (digest_of("1", "US.1"), 4)
    assert GENERATION_SECONDS < redis.ttl(key) <= 2 * GENERATION_SECONDS


def test_a_used_link_moves_to_this_generation(redis: Redis, redis_url: str) -> None:
    """A link of the generation before is found, and lasts two more from then on."""
    now, before = (keys.links_key(int(time.time() // GENERATION_SECONDS) - back) for back in (0, 1))
    redis.hset(before, digest_of("1", "US.1"), b"\0\0\0\7")

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            body = written(None, "US.1")
            await keeper.commit(body, 1, keeper.route(body))
            assert keeper.route(body)[0].queue == "messages.7"

    asyncio.run(scenario())
    assert redis.hgetall(now) == {digest_of("1", "US.1"): b"\0\0\0\7"}
    assert redis.ttl(now) > GENERATION_SECONDS


def test_links_in_redis_are_bounded(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a generation that is full, a new link replaces another one; a known one changes in place."""
    monkeypatch.setattr(constants, "MOST_LINKS", 3)

    async def scenario() -> None:
        async with committing(redis_url) as keeper:
            for n in (*range(10), 9):
                body = written(f"1631555123{n}", f"US.{n}")
                await keeper.commit(body, 1, keeper.route(body))

    asyncio.run(scenario())
    found = redis.hkeys(keys.links_key(int(time.time() // GENERATION_SECONDS)))
    assert len(found) == 3
    assert digest_of("1", "US.9") in found


def test_a_link_waits_for_redis(own_valkey: Callable[..., Any]) -> None:
    """A link that was learned while Redis was away is written with the first call that succeeds."""
    server = own_valkey()

    async def scenario() -> None:
        async with committing(server.url) as keeper:
            server.stop()
            with pytest.raises(NotDurable):
                await keeper.commit(written("16315551234", "US.1"), 1, keeper.route(written("16315551234", "US.1")))
            server.start()
            await keeper.commit(b"", 1, STATUSES)

    asyncio.run(scenario())
    key = keys.links_key(int(time.time() // GENERATION_SECONDS))
    assert list(server.client().hkeys(key)) == [digest_of("1", "US.1")]
