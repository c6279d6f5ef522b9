"""The layout in Redis and append.lua: batches that fill while they wait, RQ jobs, all or nothing."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from ingest.store import append as append_room
from ingest.store import keys, scripts
from ingest.store.append import BATCH_BYTES
from ingest.store.headers import MAGIC, enclose
from ingest.store.jobs import FAILURE_TTL, job_template
from ingest.store.records import MOST_WAITS, Record, digest, notification_id, pack, unpack

NOW = "2026-11-21T10:00:00.123456Z"
Records = dict[str, list[bytes]]
_ids = itertools.count()


def append(redis: Redis, records: Records, count: int = 500, size: int = BATCH_BYTES, flush: str | None = None) -> int:
    """Run append.lua; the number of new batches."""
    args: list[Any] = [keys.RQ, keys.WA, flush or f"f{next(_ids)}", job_template(), count, size, NOW]
    for queue, some in records.items():
        args += (queue, len(some), *some)
    script = redis.register_script(scripts.lua(append_room.__file__, "append.lua"))
    made: int = script(keys=(keys.LEDGER, keys.TAILS, keys.RQ_QUEUES), args=args)
    return made


def record(n: int, size: int = 20) -> bytes:
    """A record that arrived at n, of that many bytes in all."""
    return pack(str(n).encode().ljust(size - 8, b"."), n)


def waiting(redis: Redis, queue: str) -> list[str]:
    return [i.decode() for i in redis.lrange(keys.queue_key(queue), 0, -1)]


def content(redis: Redis, batch: str) -> list[bytes]:
    return list(redis.lrange(keys.batch_key(batch), 0, -1))


def take(redis: Redis, queue: str) -> str | None:
    """As take.lua does: off the front of the queue, and no longer the batch that may be joined."""
    found = redis.lpop(keys.queue_key(queue))
    if found and redis.hget(keys.TAILS, f"{queue}|id") == found:
        redis.hdel(keys.TAILS, f"{queue}|id", f"{queue}|bytes")
    return found.decode() if found else None


def everything(redis: Redis) -> dict[bytes, bytes]:
    return {key: redis.dump(key) for key in redis.scan_iter()}


@given(st.integers(0, 2**48 - 1), st.integers(0, 127), st.booleans(), st.binary())
def test_records_come_back(received_ms: int, attempt: int, force: bool, body: bytes) -> None:
    """A record holds arrival, attempt and `force` in eight bytes, then the body byte for byte."""
    record = unpack(packed := pack(body, received_ms, attempt, force))
    assert (record.received_ms, record.attempt, record.split) == (received_ms, attempt, 0)
    assert (record.force, record.body, record.body_digest) == (force, body, b"")
    assert packed[8:] == enclose(body)
    assert packed[8:] == body or body.startswith(MAGIC)  # as if headers stood in front: it says that none do


@given(st.integers(0, 2**48 - 1), st.integers(0, 127), st.booleans(), st.binary(), st.binary())
def test_origins_come_back(received_ms: int, attempt: int, force: bool, body: bytes, whole: bytes) -> None:
    """A record of a part of a notification also tells of which: the id stays the same."""
    body_digest = digest(whole)
    record = unpack(pack(body, received_ms, attempt, force=force, body_digest=body_digest))
    assert record == Record(received_ms, attempt, 0, force, body, body_digest)
    assert int(notification_id(received_ms, body_digest), 16) == received_ms << 64 | int.from_bytes(body_digest)


def test_record_layout() -> None:
    """The layout is fixed: records of one version are read by the next."""
    head = b"\x01\x02\x03\x04\x05\x06"
    assert pack(b"{}", 0x010203040506, 7) == head + b"\x07\x00{}"
    assert pack(b"", 0x010203040506, 7, force=True) == head + b"\x87\x00"
    assert pack(b"{}", 0x010203040506, 7, body_digest=b"ABCDEFGH") == head + b"\x07\x01ABCDEFGH{}"
    packed = pack(b"{}", 0x010203040506, 7, body_digest=b"ABCDEFGH", shares=b"abc")
    assert packed == head + b"\x07\x01" + bytes(8) + b"ABCDEFGH\0\0\0\3abc\0\0{}"
    headers = b'{"a":"b"}'
    assert pack(b"{}", 0x010203040506, 7, headers=headers) == head + b"\x07\0\xf5wah\0\0\0\x09" + headers + b"{}"
    packed = pack(b"{}", 0x010203040506, 7, waits=3, done=[b"wxyz", b"abcd"])
    assert packed == head + b"\x07\x01" + bytes(8) + bytes(8) + b"\0\0\0\0\2\3abcdwxyz{}"
    packed = pack(b"{}", 0x010203040506, 0, force=True, replay=b"rply")
    assert packed == head + b"\x80\x01" + bytes(8) + bytes(8) + b"\0\0\0\0\2\0rplyrply{}"


def test_many_handlers_and_a_replay() -> None:
    """A record holds 255 names of handlers at most; the name of its replay is never the one left out."""
    done = [n.to_bytes(4) for n in range(300)]
    assert len(unpack(pack(b"{}", 1, done=done)).done) == 255
    record = unpack(pack(b"{}", 1, done=done, replay=b"rply"))
    assert (len(record.done), record.replay) == (253, b"rply")


def test_records_of_format_1() -> None:
    """Workers still read what a receiver of format 1 wrote for several partitions: how many there were."""
    assert unpack(b"\x01\x02\x03\x04\x05\x06\x07\x08{}") == Record(0x010203040506, 7, 8, False, b"{}")


@given(
    st.binary(),
    st.sampled_from([b"", b"ABCDEFGH"]),
    st.sampled_from([b"", b"abc"]),
    st.booleans(),
    st.integers(0, MOST_WAITS),
    st.frozensets(st.binary(min_size=4, max_size=4), max_size=3),
    st.sampled_from([b"", b'{"a":"b"}']),
    st.sampled_from([b"", b"rply"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lua_reads_records(
    redis: Redis,
    body: bytes,
    body_digest: bytes,
    shares: bytes,
    force: bool,
    waits: int,
    done: frozenset[bytes],
    headers: bytes,
    replay: bytes,
) -> None:
    """Scripts find the body of a record as it is kept, and the digest before it, where Python does."""
    record = pack(body, 1, 1, force, body_digest, shares, waits, done, headers, replay)
    assert unpack(record) == Record(1, 1, 0, force, body, body_digest, shares, waits, done, headers, replay)
    lines = scripts._included("ingest/store/records.lua") + " local a, b = body_of(ARGV[1]) return { a, b }"
    assert redis.eval(lines, 0, record) == [enclose(body, headers), *filter(None, [body_digest.hex().encode()])]


def test_one_batch_one_job(redis: Redis) -> None:
    """One flush makes one batch per queue: a list of records, a ledger entry, a job in RQ's queue."""
    assert append(redis, {"statuses": [record(1), record(2)], "other": [record(3)]}) == 2
    for queue, records in {"statuses": [record(1), record(2)], "other": [record(3)]}.items():
        (batch,) = waiting(redis, queue)
        assert content(redis, batch) == records
        assert redis.exists(f"rq:job:{batch}")
    assert redis.zcard(keys.LEDGER) == 2


def test_job_is_one_of_rq(redis: Redis) -> None:
    """RQ itself finds the queue and the job, which names function, queue and batch, and has no time-out."""
    append(redis, {"messages.3": [record(1)]})
    queue = Queue("messages.3", connection=redis, serializer=JSONSerializer)
    (batch,) = waiting(redis, "messages.3")
    assert queue.job_ids == [batch]
    assert [q.name for q in Queue.all(connection=redis, serializer=JSONSerializer)] == ["messages.3"]
    job = Job.fetch(batch, connection=redis, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.kwargs) == ("workers.engine.batch.run", ["messages.3", batch], {})
    assert (job.origin, job.timeout, job.result_ttl, job.failure_ttl) == ("messages.3", -1, 0, FAILURE_TTL)
    assert job.get_status() is JobStatus.QUEUED
    assert job.enqueued_at == job.created_at
    assert job.created_at.replace(tzinfo=UTC) == datetime.fromisoformat(NOW)


def test_nothing_is_pickled(redis: Redis) -> None:
    """The job is readable text, and no body is in it."""
    append(redis, {"other": [pack(b"BODY", 1)]})
    (batch,) = waiting(redis, "other")
    fields = redis.hgetall(f"rq:job:{batch}")
    assert json.loads(fields[b"data"]) == ["workers.engine.batch.run", None, ["other", batch], {}]
    assert not any(b"BODY" in value for value in fields.values())


def test_batch_fills_while_it_waits(redis: Redis) -> None:
    """Later flushes join the batch that waits; there is still one job and one ledger entry."""
    made = [append(redis, {"statuses": [record(n)]}) for n in range(5)]
    assert made == [1, 0, 0, 0, 0]
    (batch,) = waiting(redis, "statuses")
    assert content(redis, batch) == [record(n) for n in range(5)]
    assert redis.zrange(keys.LEDGER, 0, -1, withscores=True) == [(f"statuses|{batch}".encode(), 0)]


def test_full_by_count(redis: Redis) -> None:
    """A batch takes as many notifications as WA_BATCH says, over several flushes and within one."""
    assert append(redis, {"other": [record(n) for n in range(7)]}, count=10) == 1
    assert append(redis, {"other": [record(n) for n in range(7, 25)]}, count=10) == 2
    found = [content(redis, batch) for batch in waiting(redis, "other")]
    assert [len(records) for records in found] == [10, 10, 5]
    assert list(itertools.chain(*found)) == [record(n) for n in range(25)]


def test_full_by_size(redis: Redis) -> None:
    """A batch of exactly 1 MiB is not too large, one byte more is; the bytes of earlier flushes count."""
    half = BATCH_BYTES // 2
    for n in range(2):
        append(redis, {"other": [record(n, half)]})
    assert len(waiting(redis, "other")) == 1
    append(redis, {"other": [record(2, half)]})
    append(redis, {"other": [record(3, half + 1)]})
    assert [len(content(redis, batch)) for batch in waiting(redis, "other")] == [2, 1, 1]


def test_large_body(redis: Redis) -> None:
    """A body larger than a batch is a batch of its own, wherever it stands, and order is kept."""
    large = record(2, BATCH_BYTES + 1)
    append(redis, {"other": [record(1), large, record(3)]})
    append(redis, {"other": [record(4)]})
    assert [content(redis, batch) for batch in waiting(redis, "other")] == [
        [record(1)],
        [large],
        [record(3), record(4)],
    ]


def test_large_body_into_nothing(redis: Redis) -> None:
    """A body larger than a batch also fits when it comes first and alone."""
    append(redis, {"other": [record(1, 3 << 20)]})
    append(redis, {"other": [record(2, 4 << 20)]})
    assert [len(content(redis, batch)) for batch in waiting(redis, "other")] == [1, 1]


def test_taken_batch_is_not_joined(redis: Redis) -> None:
    """Nothing is added to a batch in work, also when it is the only one and RQ alone popped it."""
    append(redis, {"other": [record(1)]})
    taken = redis.lpop(keys.queue_key("other")).decode()
    append(redis, {"other": [record(2)]})
    assert content(redis, taken) == [record(1)]
    (waits,) = waiting(redis, "other")
    assert waits != taken
    assert content(redis, waits) == [record(2)]


def test_batch_put_back_is_not_joined(redis: Redis) -> None:
    """A batch that was taken and put back, alone in its queue, stays as it is: it may have been handled in part."""
    append(redis, {"other": [record(1)]})
    taken = take(redis, "other")
    redis.lpush(keys.queue_key("other"), taken)
    append(redis, {"other": [record(2)]})
    first, second = waiting(redis, "other")
    assert first == taken
    assert (content(redis, first), content(redis, second)) == ([record(1)], [record(2)])


def test_foreign_job_at_the_end_is_not_joined(redis: Redis) -> None:
    """A job that somebody else put at the end of the queue is left alone."""
    append(redis, {"other": [record(1)]})
    redis.rpush(keys.queue_key("other"), "foreign")
    append(redis, {"other": [record(2)]})
    first, foreign, second = waiting(redis, "other")
    assert foreign == "foreign"
    assert content(redis, "foreign") == []
    assert (content(redis, first), content(redis, second)) == ([record(1)], [record(2)])


def test_queues_do_not_mix(redis: Redis) -> None:
    """Each queue has its own waiting batch, in flushes of several queues too."""
    for n in range(3):
        append(redis, {f"messages.{p}": [record(10 * n + p)] for p in range(8)})
    for p in range(8):
        (batch,) = waiting(redis, f"messages.{p}")
        assert content(redis, batch) == [record(p), record(10 + p), record(20 + p)]


def test_ledger_score_is_the_first_arrival(redis: Redis) -> None:
    """A batch's age counts from the arrival of its first record, to the millisecond."""
    arrived = 1_795_255_946_789
    append(redis, {"other": [pack(b"a", arrived), pack(b"b", arrived + 5)]})
    append(redis, {"other": [pack(b"c", arrived + 9)]})
    (batch,) = waiting(redis, "other")
    assert redis.zscore(keys.LEDGER, f"other|{batch}") == arrived


def test_thousands_in_one_flush(redis: Redis) -> None:
    """A flush of thousands passes the limit of Lua's unpack, into one batch and into many."""
    records = [record(n) for n in range(9000)]
    assert append(redis, {"other": records[:10]}, count=10_000) == 1
    assert append(redis, {"other": records[10:]}, count=10_000) == 0
    assert content(redis, waiting(redis, "other")[0]) == records
    assert append(redis, {"statuses": records[:5000]}, count=1) == 5000
    assert [content(redis, batch) for batch in waiting(redis, "statuses")] == [[one] for one in records[:5000]]


def test_batch_ids_suit_rq(redis: Redis) -> None:
    """Batch ids hold only what RQ allows in a job id."""
    append(redis, {"other": [record(n) for n in range(3)]}, count=1)
    for batch in waiting(redis, "other"):
        Job.fetch(batch, connection=redis, serializer=JSONSerializer).id = batch  # the setter checks it


def test_doorbell_holds_one_token(redis: Redis) -> None:
    """Each lane that got work has one token at its doorbell, however much came, and the partitions split it."""
    for _ in range(3):
        append(redis, {"messages.1": [record(1)], "messages.2": [record(2)], "other": [record(3)]})
    assert {key: redis.llen(key) for key in redis.keys(keys.doorbell_key("*"))} == {
        keys.doorbell_key("messages").encode(): 1,
        keys.doorbell_key("other").encode(): 1,
    }


def test_flow_counts_notifications(redis: Redis) -> None:
    """What came is counted per lane for the rates, and the counts expire."""
    append(redis, {"messages.1": [record(1)], "messages.2": [record(2), record(3)], "other": [record(4)]})
    (key,) = redis.keys(keys.flow_key("*"))
    assert redis.hgetall(key) == {b"in.messages": b"3", b"in.other": b"1"}
    assert 0 < redis.ttl(key) <= 600


def test_nothing_to_keep(redis: Redis) -> None:
    """A commit of nothing, which is how readiness is asked, writes nothing."""
    assert append(redis, {}) == 0
    assert redis.dbsize() == 0


def test_nothing_is_refused_too(redis: Redis) -> None:
    """A full Redis also refuses a commit of nothing: otherwise readiness would not notice."""
    redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        append(redis, {})


FLUSH: Records = {"messages.1": [record(2)], "other": [record(n) for n in range(30)], "statuses": [record(3)]}


def test_all_or_nothing_when_memory_is_full(redis: Redis) -> None:
    """A full Redis refuses the whole flush; afterwards the same works."""
    append(redis, {"other": [record(1)]})
    before = everything(redis)
    redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        append(redis, FLUSH)
    assert everything(redis) == before
    redis.config_set("maxmemory", 0)
    assert append(redis, FLUSH) == 2


def test_all_or_nothing_on_the_way_to_full(redis: Redis) -> None:
    """Whatever flush is the one for which memory no longer suffices, it is kept as a whole or not at all."""
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 2_000_000)
    kept = 0
    with suppress(OutOfMemoryError):
        for n in range(100):
            append(redis, {q: [record(n, 10_000)] * 5 for q in ("messages.0", "statuses", "other")})
            kept = n + 1
    assert 5 < kept < 100
    for queue in ("messages.0", "statuses", "other"):
        assert sum(len(content(redis, batch)) for batch in waiting(redis, queue)) == 5 * kept


def test_all_or_nothing_on_a_replica(own_valkey: Callable[..., Any]) -> None:
    """A Redis that was demoted to a replica refuses the whole flush."""
    redis = own_valkey().client()
    append(redis, {"other": [record(1)]})
    before = everything(redis)
    redis.replicaof("127.0.0.1", 1)
    with pytest.raises(ReadOnlyError):
        append(redis, FLUSH)
    assert everything(redis) == before


def test_all_or_nothing_when_the_disk_fails(own_valkey: Callable[..., Any], wait_for: Callable[..., None]) -> None:
    """A Redis that cannot save (MISCONF) refuses the whole flush."""
    server = own_valkey(save="3600 1")
    redis = server.client()
    append(redis, {"other": [record(1)]})
    (server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    redis.bgsave()
    wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")
    before = everything(redis)
    with pytest.raises(ResponseError, match="MISCONF"):
        append(redis, FLUSH)
    assert everything(redis) == before


class Model:
    """What append.lua should do, in plain Python."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.queues: dict[str, list[list[bytes]]] = {}
        self.open: dict[str, list[bytes] | None] = {}
        self.taken: list[list[bytes]] = []

    def append(self, records: Records) -> None:
        for queue, some in records.items():
            batches_here = self.queues.setdefault(queue, [])
            for one in some:
                last = self.open.get(queue)
                joins = last is not None and batches_here and batches_here[-1] is last
                if not joins or len(last or ()) >= self.count or len(b"".join(last or ())) + len(one) > self.size:
                    batches_here.append([])
                    self.open[queue] = batches_here[-1]
                batches_here[-1].append(one)

    def take(self, queue: str) -> None:
        if self.queues.get(queue):
            batch = self.queues[queue].pop(0)
            self.taken.append(batch)
            if self.open.get(queue) is batch:
                self.open[queue] = None


QUEUES = st.sampled_from(["messages.0", "messages.1", "other"])
STEPS = st.lists(
    st.one_of(
        st.dictionaries(QUEUES, st.lists(st.integers(8, 70), min_size=1, max_size=12), min_size=1),
        QUEUES,  # taken from
    ),
    max_size=15,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, count=st.integers(1, 6), size=st.integers(40, 120))
def test_any_order_of_appends_and_takes(redis: Redis, steps: list[Any], count: int, size: int) -> None:
    """Every record is in exactly one batch, in the order of arrival, and no batch passes its limits."""
    redis.flushall()
    model, taken = Model(count, size), []
    for n, step in enumerate(steps):
        if isinstance(step, str):
            model.take(step)
            taken += filter(None, [take(redis, step)])
            continue
        rng = random.Random(n)
        records = {q: [pack(rng.randbytes(s - 8), n) for s in sizes] for q, sizes in step.items()}
        model.append(records)
        append(redis, records, count, size)
    for queue, expected in model.queues.items():
        assert [content(redis, batch) for batch in waiting(redis, queue)] == expected
    assert [content(redis, batch) for batch in taken] == model.taken
    for each in (*itertools.chain(*model.queues.values()), *model.taken):
        assert len(each) <= count
        assert len(each) == 1 or len(b"".join(each)) <= size
    assert redis.zcard(keys.LEDGER) == len(taken) + sum(map(len, model.queues.values()))
