"""The Lua scripts against a model: in whatever order things happen, nothing is lost and nothing is done twice."""

from __future__ import annotations

import sys
import time
from collections import Counter
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from ingest.routing import partition_of, route
from ingest.settings import load
from ingest.state import controls
from ingest.store import append, keys, scripts
from ingest.store.jobs import job_template
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import LANES, lane_of
from ingest.store.records import pack, unpack
from workers import Handlers
from workers.dispatch.dispatcher import Outcome
from workers.engine import batch as batch_room
from workers.engine import queue as queue_room
from workers.engine import reaper
from workers.engine.batch_state import BatchState
from workers.events import Event

PARTITIONS = 2
CONTACTS = ["15550000", "15550001", "15550003", "15550004"]
QUEUES = [*(f"messages.{n}" for n in range(PARTITIONS)), "statuses", "other"]
MAX_COUNT, MAX_BYTES, MAX_ATTEMPTS = 3, 420, 3
LOCK = keys.REAPER
LONG_AGO, NEVER_MS = 1, 1 << 50
SPLIT_AT = 2
BASE_MS = 1_700_000_000_000
JUNK = "junk"
RARELY = 1e-9  # events per second: a bucket that holds one token and does not fill while a test runs

NAMES = [*(f"m{n}" for n in range(10)), *(f"s{n}" for n in range(6)), "c0", "c1"]
KINDS = {"m": "message", "s": "status", "c": "change"}


class Owed(NamedTuple):
    """A record as the model sees it: where it waits, its attempt, and the events in it that count there."""

    queue: str
    attempt: int
    names: tuple[str, ...]


OUTCOMES = st.lists(st.sampled_from(["handled", "failed", "failed", "discarded", "rejected"]), min_size=1, max_size=4)


def contact(name: str) -> str:
    return CONTACTS[int(name[1:]) % len(CONTACTS)]


def body(names: tuple[str, ...]) -> bytes:
    """A notification of one kind of events; what has no name cannot be parsed."""
    if not names:
        return JUNK.encode()
    if names[0][0] == "m":
        return orjson.dumps({"messages": [{"from": contact(name), "id": name, "type": "text"} for name in names]})
    if names[0][0] == "s":
        return orjson.dumps({"statuses": [{"id": n, "recipient_id": "1", "status": "read"} for n in names]})
    changes = [{"field": "account_update", "value": {"id": name}} for name in names]
    return orjson.dumps({"entry": [{"id": "9", "time": 1, "changes": changes}]})


def owed(queue: str, record: bytes) -> Owed:
    """The reverse of `body`, for one queue."""
    _, attempt, split, _, text, _ = unpack(record)
    if text == JUNK.encode():
        return Owed(queue, attempt, ())
    tree = orjson.loads(text)
    if "entry" in tree:
        names = [change["value"]["id"] for entry in tree["entry"] for change in entry["changes"]]
    else:
        names = [element["id"] for element in tree.get("messages", tree.get("statuses"))]
    if split:
        names = [name for name in names if f"messages.{partition_of(contact(name), split)}" == queue]
    return Owed(queue, attempt, tuple(names))


def name_of(event: Event) -> str:
    raw: Any = event.raw
    return raw["value"]["id"] if event.kind == "change" else raw["id"]


def notifications() -> st.SearchStrategy[tuple[str, ...]]:
    one_kind = [st.lists(st.sampled_from([n for n in NAMES if n[0] == kind]), max_size=2) for kind in "mmsc"]
    return st.one_of(one_kind).map(tuple)


@dataclass
class Worker:
    """A worker process, from its first sign of life to its last."""

    name: str
    runner: batch_room.Runner
    alive: bool = True  # as the others see it
    member: str | None = None  # the batch that it believes to have
    probe: bool = False
    allowance: int | None = None
    token: str = ""  # with which it was given that batch
    given: list[bytes] = field(default_factory=list)  # the records that came with it
    opened: BatchState | None = None
    records: list[Owed] = field(default_factory=list)
    first_seq: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    todo: list[tuple[int, Event]] = field(default_factory=list)
    done: list[tuple[str, int, str]] = field(default_factory=list)  # name, attempt, outcome; not settled yet
    gone: int = 0
    halted: bool = False
    last_settle: dict[str, Any] | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        send = self.runner._script

        def settle(**call: Any) -> Any:
            self.last_settle = call
            if self.cut:
                raise ConnectionError
            return send(**call)

        self.runner._script = settle  # type: ignore[assignment]

    def lay_down(self) -> None:
        self.member, self.opened, self.halted = None, None, False
        self.records, self.left, self.todo, self.done = [], [], [], []


@dataclass
class State:
    """What lies in Redis."""

    ledger: dict[str, float]
    taken: dict[str, str]
    leases: dict[str, str]
    tails: dict[str, str]
    records: dict[str, list[bytes]]
    lists: set[str]
    queued: dict[str, list[str]]
    scheduled: dict[str, list[str]]


class Machine(RuleBasedStateMachine):
    """Receivers, workers, RQ and the clock, with the model that says what must come of it."""

    redis: Redis
    connection: PipelinedConnection
    without: frozenset[str] = frozenset()  # what does not happen in this run

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.redis.set(LOCK, "nobody")  # a reaping is a step of its own here
        self.settings = load(partitions=PARTITIONS, max_attempts=MAX_ATTEMPTS, batch=MAX_COUNT)
        self.template = job_template()
        self.append = self.redis.register_script(scripts.lua(append.__file__, "append.lua"))
        self.take_script = self.redis.register_script(scripts.lua(queue_room.__file__, "take.lua"))
        self.flushes: list[list[Any]] = []
        self.born = 0
        self.seq = 0
        # The model
        self.committed: set[str] = set()
        self.finished: set[str] = set()
        self.owed: Counter[Owed] = Counter()
        self.holders: dict[str, str] = {}
        self.claims: dict[tuple[str, int], str] = {}
        self.remembered: set[tuple[str, int]] = set()
        self.claimed_ever = False
        self.deaths: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.letters: Counter[tuple[str, str]] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.handled: set[str] = set()
        self.last_seq: dict[str, int] = {}
        self.emptied: set[str] = set()
        self.paused: set[str] = set()
        self.capped: set[str] = set()
        self.tokens = dict.fromkeys(LANES, 1)
        self.late: tuple[Worker, str, Worker] | None = None
        self.ahead = False  # that one is the end of a batch, and the worker goes on meanwhile
        self.in_order = True  # until RQ loses or repeats something, or a worker works on what it lost
        self.workers = [self.birth() for _ in range(3)]

    def birth(self) -> Worker:
        self.born += 1
        name = f"w{self.born}"
        reaper.heartbeat_and_reap(self.redis, name)
        consumer = queue_room.Consumer(name, self.connection)
        return Worker(name, batch_room.Runner(consumer, Handlers(), self.settings, lambda: False, QUEUES))

    # What the receiver does

    @rule(bodies=st.lists(notifications(), min_size=2, max_size=10))
    def commit(self, bodies: list[tuple[str, ...]]) -> None:
        records: dict[str, list[bytes]] = {}
        for names in bodies:
            self.seq += 1
            text = body(names)
            for queue, split in route(text, PARTITIONS):
                records.setdefault(queue, []).append(pack(text, BASE_MS + self.seq, split=split))
            self.committed.update(names)
        flush: list[Any] = [f"n{len(self.flushes):08x}", self.template, MAX_COUNT, MAX_BYTES, "NOW"]
        for queue, of_queue in records.items():
            flush += (queue, len(of_queue), *of_queue)
            self.owed.update(owed(queue, record) for record in of_queue)
        self.flushes.append(flush)
        self.send(flush)

    @precondition(lambda self: self.flushes and "commit_again" not in self.without)
    @rule(which=st.integers(0, 2))
    def commit_again_on_a_new_connection(self, which: int) -> None:
        """The reply was lost with the connection; what was already kept may lie there twice."""
        before = self.everything()
        self.send(self.flushes[-1 - which % len(self.flushes)])
        more = self.everything()
        assert before <= more
        self.owed = more

    def send(self, flush: list[Any]) -> None:
        script_keys = [keys.LEDGER, keys.TAILS, keys.RQ_QUEUES]
        self.append(keys=script_keys, args=[keys.RQ, keys.WA, *flush])

    # What workers do

    def take(self, n: int) -> None:
        worker = self.workers[n]
        if worker.member is None:
            self.give(worker)

    def give(self, worker: Worker) -> bool:
        """Take for a worker, as BatchQueue does. False when there is nothing to take."""
        script_keys = [keys.LEDGER, keys.TAKEN, keys.LEASES, keys.TAILS]
        script_keys += [keys.TURN, keys.SPENT, keys.WAITS, keys.CONTROLS]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        settling = self.late[2].member if self.late and self.late[0] is worker and self.ahead else ""
        args = [keys.RQ, keys.WA, worker.name, self.template, now, settling, 1, *QUEUES]
        closed = self.paused | {lane for lane in self.capped if not self.tokens[lane]}
        for member, token in list(self.holders.items()):
            if token == worker.name and member != settling and lane_of(member.split("|")[0]) in closed:
                del self.holders[member]  # what it does not know of goes back
        reply: Any = self.take_script(keys=script_keys, args=args)
        if isinstance(reply, list):
            queue, batch, probe = (part.decode() for part in reply[:3])
            assert lane_of(queue) not in closed, "given out of a lane that is paused or at its cap"
            held = [m for m, token in self.holders.items() if token == worker.name and m != settling]
            assert held in ([], [f"{queue}|{batch}"]), "a worker that has a batch already was given another one"
            assert self.holders.get(f"{queue}|{batch}") in (None, worker.name), "given to two workers"
            self.holders[f"{queue}|{batch}"] = worker.name
            worker.member, worker.probe = f"{queue}|{batch}", probe == "1"
            worker.token, worker.given = reply[3].decode(), reply[4]
            worker.allowance = reply[5] if lane_of(queue) in self.capped else None
            assert worker.allowance == reply[5] or reply[5] == -1
            self.tokens[lane_of(queue)] -= worker.allowance or 0
            assert self.tokens[lane_of(queue)] >= 0, "more tokens than there were"
            assert self.redis.hexists(f"{keys.RQ}:job:{batch}", "data")
            self.stop_the_clock()
            return True
        waits = [*self.redis.hkeys(keys.WAITS), *(lane.encode() for lane in closed)]
        state = self.look()
        for queue in QUEUES:
            if queue not in state.leases and lane_of(queue).encode() not in waits:
                assert not [
                    i for i in state.queued[queue] if f"{queue}|{i}" in state.ledger.keys() - state.taken.keys()
                ]
        return False

    @rule(n=st.integers(0, 2))
    def lose_connection(self, n: int) -> None:
        """An answer does not come: the worker lives on and does not know what it has."""
        self.workers[n].lay_down()

    def claim(self, n: int) -> None:
        worker = self.workers[n]
        if worker.member is not None and worker.opened is None:
            self.open(worker)

    def open(self, worker: Worker) -> None:
        if self.holders.get(worker.member) != worker.name:
            worker.lay_down()  # it was silent for too long, as `Runner._look` finds
            return
        queue, batch = worker.member.split("|")
        raw = worker.given  # it may have lost the batch since
        worker.opened = opened = BatchState(queue, batch, raw, MAX_ATTEMPTS, worker.token)
        opened.probing = worker.probe
        opened.allowance = worker.allowance
        worker.records = [owed(queue, record) for record in raw]
        worker.first_seq = [unpack(record).received_ms for record in raw]
        worker.gone = 0
        worker.done = []
        events = list(opened.events)
        worker.todo = worker.runner._claim(opened)
        worker.left = [0] * len(raw)
        mine: set[tuple[str, int]] = set()
        expected = []
        ledger = self.look().ledger
        for index, event in events:
            key = (name_of(event), event.attempt)
            token = self.claims.get(key)
            if key in mine or key in self.remembered or (token not in (None, worker.member) and token in ledger):
                worker.done.append((*key, "duplicate"))
            else:
                self.claims[key] = worker.member
                expected.append((index, event))
                worker.left[index] += 1
            mine.add(key)
        self.claimed_ever |= bool(mine)
        assert [name_of(e) for _, e in worker.todo] == [name_of(e) for _, e in expected], "claims"

    def handle(self, n: int, outcomes: list[str]) -> None:
        worker = self.workers[n]
        if worker.opened is None or worker.halted:
            return
        for outcome in outcomes[: len(worker.todo)]:
            if worker.opened.allowance != 0:
                self.do(worker, outcome)

    def do(self, worker: Worker, outcome: str) -> None:
        index, event = worker.todo.pop(0)
        name = name_of(event)
        if event.kind == "message" and event.attempt == 1 and self.in_order and name not in self.handled:
            seq = worker.first_seq[index]
            assert seq >= self.last_seq.get(contact(name), 0), "a contact's messages changed their order"
            self.last_seq[contact(name)] = seq
        self.handled.add(name)
        if worker.opened.allowance is not None:
            worker.opened.allowance -= 1
        worker.opened.finish(index, event, Outcome(outcome))
        worker.left[index] -= 1
        worker.done.append((name, event.attempt, outcome))

    @rule(n=st.integers(0, 2), outcomes=OUTCOMES)
    def work_a_little(self, n: int, outcomes: list[str]) -> None:
        self.work(n, outcomes[:2], "more")

    @rule(n=st.integers(0, 2))
    def work_to_the_end(self, n: int) -> None:
        self.take(n)
        self.finish(self.workers[n])

    @rule(n=st.integers(0, 2), outcomes=OUTCOMES, last=st.sampled_from(["take", "claim", "handle", "more", "finish"]))
    def work(self, n: int, outcomes: list[str], last: str) -> None:
        """A worker goes on from where it is up to that step."""
        self.take(n)
        if last != "take":
            self.claim(n)
        if last not in ("take", "claim"):
            self.handle(n, outcomes)
        if last in ("more", "finish"):
            self.settle(n, last == "finish")

    def settle(self, n: int, finish: bool) -> None:
        """A settle on the way, or the last one: `end` when all is done, else `back`."""
        worker = self.workers[n]
        if worker.opened is None:
            return
        how = "more"
        if finish or worker.halted:
            how = "back" if any(worker.left) else "end"
        self.settle_as(worker, how)

    def settle_as(self, worker: Worker, how: str) -> None:
        if self.late and self.late[0] is worker and self.ahead:
            self.settle_arrives()  # a connection keeps the order
        opened, member = worker.opened, worker.member
        opened._settled_at = time.monotonic() - 0.01  # always ten milliseconds of work, so that runs repeat exactly
        if self.holders.get(member) != worker.name:
            with pytest.raises(batch_room.Lost):
                worker.runner._settle(opened, how)
            worker.lay_down()
            return
        answer = worker.runner._settle(opened, how)
        self.stop_the_clock()
        self.account(worker, opened.queue)
        lane = lane_of(opened.queue)
        if how == "more":
            worker.halted = answer in ("wait", "yield")
            assert worker.halted or lane not in self.paused
            assert worker.halted or lane not in self.capped or opened.allowance is not None
            if not self.redis.exists(keys.batch_key(opened.batch)):
                self.emptied.add(member)  # done but for its end
            return
        assert answer == how
        self.tokens[lane] = min(1, self.tokens[lane] + (opened.allowance or 0))
        del self.holders[member]
        if member not in self.look().ledger:
            del self.deaths[member]
        worker.lay_down()

    def account(self, worker: Worker, queue: str) -> None:
        """What a settle must have done."""
        lane = lane_of(queue)
        for name, attempt, outcome in worker.done:
            kind = KINDS[name[0]]
            if outcome == "duplicate":
                self.counts[f"duplicate.{kind}"] += 1
                continue
            self.claims.pop((name, attempt), None)
            self.remembered.add((name, attempt))
            if outcome == "failed" and attempt < MAX_ATTEMPTS:
                self.counts[f"retried.{kind}"] += 1
                self.owed[Owed(queue, attempt + 1, (name,))] += 1
                continue
            self.finished.add(name)
            if outcome in ("failed", "rejected"):
                self.counts[f"dead.{kind}"] += 1
                self.letters[lane, outcome] += 1
            else:
                self.counts[f"{outcome}.{kind}"] += 1
                self.succeeded[name] += 1
        worker.done = []
        while worker.gone < len(worker.records) and not worker.left[worker.gone]:
            record = worker.records[worker.gone]
            self.owed[record] -= 1
            if not record.names:
                self.counts["dead.notification"] += 1
                self.letters[lane, "unreadable"] += 1
            worker.gone += 1

    # What happens to workers

    @rule(n=st.integers(0, 2), reaped=st.booleans())
    def die(self, n: int, reaped: bool) -> None:
        """SIGKILL at any point; another process starts in its place."""
        n = self.busy(n)
        self.silence(self.workers[n])
        self.workers[n] = self.birth()
        if reaped:
            self.reap((n + 1) % 3)

    @rule(n=st.integers(0, 2), times=st.integers(2, 4))
    def die_again_and_again(self, n: int, times: int) -> None:
        """What is at the front kills its workers: it is split, then a dead letter."""
        for _ in range(times):
            self.work(n, ["handled"], "handle")
            self.silence(self.workers[n])
            self.workers[n] = self.birth()
            self.reap((n + 1) % 3)

    @rule(n=st.integers(0, 2), reaped=st.booleans(), settles=st.booleans())
    def fall_silent(self, n: int, reaped: bool, settles: bool) -> None:
        """It gives no sign of life but goes on: a machine that was suspended, a network that was cut."""
        n = self.busy(n)
        worker = self.workers[n]
        self.in_order = False
        self.silence(worker)
        worker.alive = False
        if reaped:
            self.reap((n + 1) % 3)
        if settles:
            self.settle(n, finish=True)

    def busy(self, n: int) -> int:
        """A worker with a batch, if there is one: what happens to the others teaches little."""
        busy = [number for number, worker in enumerate(self.workers) if worker.opened]
        return busy[n % len(busy)] if busy else n

    def silence(self, worker: Worker) -> None:
        self.redis.zadd(keys.ALIVE, {worker.name: LONG_AGO})

    @rule(n=st.integers(0, 2))
    def leave(self, n: int) -> None:
        worker = self.workers[n]
        worker.alive = False
        self.reaped_by(worker.name)
        reaper.heartbeat_and_reap(self.redis, worker.name, leaves=True)
        self.check_swept()
        self.workers[n] = self.birth()

    @rule(n=st.integers(0, 2))
    def reap(self, n: int) -> None:
        worker = self.workers[n]
        worker.alive = True
        for other in self.workers:
            if other.alive:
                reaper.heartbeat_and_reap(self.redis, other.name)
        self.reaped_by(worker.name)
        self.redis.delete(LOCK)
        back = reaper.heartbeat_and_reap(self.redis, worker.name)
        self.redis.set(LOCK, "nobody")
        self.check_swept()
        state = self.look()
        for queue in QUEUES:
            oldest_first = sorted((state.ledger[m], m.split("|")[1]) for m in back if m.startswith(f"{queue}|"))
            assert state.queued[queue][: len(oldest_first)] == [batch for _, batch in oldest_first]

    def reaped_by(self, name: str) -> None:
        """What a reaping is going to do."""
        alive = {worker.name for worker in self.workers if worker.alive}
        records = self.look().records
        for member, token in list(self.holders.items()):
            if token in alive:
                continue
            del self.holders[member]
            if token == name:
                continue
            queue, batch = member.split("|")
            self.deaths[member] += 1
            if self.deaths[member] == SPLIT_AT and records[member]:
                self.forget_claims(member)
                del self.deaths[member]
                for n in range(len(records[member])):
                    self.deaths[f"{queue}|{batch}_p{n + 1:05d}"] = SPLIT_AT
            elif self.deaths[member] > SPLIT_AT and records[member]:
                del self.deaths[member]
                (record,) = records[member]
                self.forget_claims(member)
                self.owed[owed(queue, record)] -= 1
                self.counts["dead.notification"] += 1
                self.letters[lane_of(queue), "poison"] += 1
                self.finished.update(owed(queue, record).names)

    def check_swept(self) -> None:
        state = self.look()
        for member in state.ledger:
            queue, batch = member.split("|")
            assert member in state.taken or batch in state.queued[queue] or batch in state.scheduled[queue], member

    # What RQ and the clock do

    @rule(queue=st.sampled_from(QUEUES), what=st.sampled_from(["first", "queue", "job", "scheduled", "queues"]))
    def rq_loses(self, queue: str, what: str) -> None:
        self.in_order = False
        key = keys.queue_key(queue)
        if what == "first":
            self.redis.lpop(key)
        elif what == "queue":
            self.redis.delete(key)
        elif what == "scheduled":
            self.redis.delete(keys.scheduled_key(queue))
        elif what == "queues":
            self.redis.srem(keys.RQ_QUEUES, key)
        else:
            self.redis.delete(*(f"{keys.RQ}:job:{m.split('|')[1]}" for m in self.look().ledger), "-")

    @rule(n=st.integers(0, 20), front=st.booleans())
    def pushed_twice(self, n: int, front: bool) -> None:
        members = list(self.look().ledger)
        if members:
            queue, batch = members[n % len(members)].split("|")
            self.in_order = False
            (self.redis.lpush if front else self.redis.rpush)(keys.queue_key(queue), batch)

    @rule()
    def time_passes(self) -> None:
        """Retries are due, and lanes have waited."""
        for queue in QUEUES:
            for batch in self.redis.zrange(keys.scheduled_key(queue), 0, -1):
                self.redis.zadd(keys.scheduled_key(queue), {batch: LONG_AGO})
        for lane in self.redis.hkeys(keys.WAITS):
            self.redis.hset(keys.WAITS, lane, LONG_AGO)
        for lane in LANES:
            self.redis.hdel(keys.CONTROLS, f"tokens.{lane}", f"at.{lane}")
        self.tokens = dict.fromkeys(LANES, 1)

    # What an operator says

    @rule(lane=st.sampled_from(LANES), what=st.sampled_from(["pause", "resume", "resume", "limit", "off"]))
    def steer(self, lane: str, what: str) -> None:
        if what == "pause":
            controls.pause(self.redis, [lane])
            self.paused.add(lane)
        elif what == "resume":
            controls.resume(self.redis, [lane])
            self.paused.discard(lane)
        else:
            controls.limit(self.redis, lane, RARELY if what == "limit" else None)
            (self.capped.add if what == "limit" else self.capped.discard)(lane)

    def stop_the_clock(self) -> None:
        """A lane that waits does so until `time_passes`."""
        now_ms = time.time() * 1000 - 50
        for lane, until in self.redis.hgetall(keys.WAITS).items():
            self.redis.hset(keys.WAITS, lane, NEVER_MS if int(until) > now_ms + 60 else LONG_AGO)

    def forget_claims(self, member: str) -> None:
        self.claims = {key: token for key, token in self.claims.items() if token != member}

    # What must hold after each step

    def look(self) -> State:
        with self.redis.pipeline() as pipe:
            pipe.zrange(keys.LEDGER, 0, -1, withscores=True)
            for key in (keys.TAKEN, keys.LEASES, keys.TAILS):
                pipe.hgetall(key)
            pipe.keys(keys.batch_key("*"))
            for queue in QUEUES:
                pipe.lrange(keys.queue_key(queue), 0, -1)
                pipe.zrange(keys.scheduled_key(queue), 0, -1)
            ledger, *hashes = pipe.execute()
        hashes, lists, waiting = hashes[:3], hashes[3], hashes[4:]
        taken, leases, tails = ({k.decode(): v.decode() for k, v in found.items()} for found in hashes)
        taken = {member: token.partition("#")[0] for member, token in taken.items()}
        members = {member.decode(): score for member, score in ledger}
        with self.redis.pipeline() as pipe:
            for member in members:
                pipe.lrange(keys.batch_key(member.split("|")[1]), 0, -1)
            records = dict(zip(members, pipe.execute(), strict=True))
        ids = [[one.decode() for one in found] for found in waiting]
        return State(
            members,
            taken,
            leases,
            tails,
            records,
            {key.decode().removeprefix(keys.batch_key("")) for key in lists},
            dict(zip(QUEUES, ids[::2], strict=True)),
            dict(zip(QUEUES, ids[1::2], strict=True)),
        )

    def everything(self) -> Counter[Owed]:
        return Counter(owed(m.split("|")[0], r) for m, of_batch in self.look().records.items() for r in of_batch)

    @invariant()
    def holds(self) -> None:
        state = self.look()
        ids = [member.split("|")[1] for member in state.ledger]
        assert len(set(ids)) == len(ids), "two batches share their records"
        assert state.lists <= set(ids), "records that nobody owes"
        empty = {member for member in state.ledger if not state.records[member]}
        assert empty <= self.emptied, "owed without records"
        assert state.taken == self.holders
        assert state.taken.keys() <= state.ledger.keys(), "given out, but not owed"
        held = [member.split("|") for member in state.taken]
        partitions = [one for one in held if one[0].startswith("messages.")]
        assert sorted(state.leases.items()) == sorted(map(tuple, partitions)), "the leases are not what is in work"
        there = Counter(owed(m.split("|")[0], r) for m, of_batch in state.records.items() for r in of_batch)
        assert there == +self.owed, (there - self.owed, self.owed - there)
        present = {name for record in there for name in record.names}
        assert self.committed <= self.finished | present, "lost"
        assert all(times == 1 for times in self.succeeded.values()), "done twice"
        for member, of_batch in state.records.items():
            if member.split("|")[1].startswith("n"):
                assert len(of_batch) <= MAX_COUNT
                assert len(of_batch) == 1 or sum(map(len, of_batch)) <= MAX_BYTES
        for queue in QUEUES:
            tail = state.tails.get(f"{queue}|id")
            assert f"{queue}|{tail}" not in state.taken, "what is in work may be joined"
            if tail and state.queued[queue][-1:] == [tail]:
                size = sum(map(len, state.records.get(f"{queue}|{tail}", ())))
                assert size == int(state.tails[f"{queue}|bytes"])
        counts = {name.decode(): int(count) for name, count in self.redis.hgetall(keys.COUNTS).items()}
        assert counts == +self.counts
        assert self.redis.hlen(keys.CLAIMS) == len(self.claims) + self.claimed_ever

    # The end

    def teardown(self) -> None:
        """One good worker is left: it brings everything to its end."""
        if sys.exc_info()[1] is not None:
            return  # a step failed: its error is the one to tell
        for worker in self.workers[1:]:
            self.finish(worker)
        good = self.workers[0]
        self.finish(good)
        for lane in LANES:
            self.steer(lane, "resume")  # caps stay
        self.late = None
        for n in range(1, 3):
            self.silence(self.workers[n])
            self.workers[n].alive = False
        for _ in range(300):
            self.time_passes()
            self.reap(0)
            while self.give(good):
                self.finish(good)
                self.time_passes()
            if not self.redis.exists(keys.LEDGER):
                break
        self.holds()
        assert self.committed == self.finished
        found = {key.decode() for key in self.redis.keys("*")}
        names = (keys.LEDGER, keys.TAKEN, keys.LEASES, keys.DEATHS)
        assert found.isdisjoint(names)
        assert not [k for k in found if ":batch:" in k or ":job:" in k or ":queue:" in k or ":scheduled:" in k]
        assert self.claims == {}, "claims that nobody will ever settle"
        letters: Counter[tuple[str, str]] = Counter()
        for lane in LANES:
            for _, letter in self.redis.xrange(keys.dead_key(lane)):
                letters[lane, letter[b"reason"].decode()] += 1
        assert letters == self.letters

    @rule(n=st.integers(0, 2))
    def settle_again(self, n: int) -> None:
        """The last settle is sent once more, at once or late: its connection broke before the answer came."""
        worker = self.workers[n]
        if worker.last_settle is not None and self.late is None:
            before = self.look(), self.redis.hgetall(keys.COUNTS)
            worker.runner._script(**worker.last_settle)
            assert (self.look(), self.redis.hgetall(keys.COUNTS)) == before, "settled twice"

    @precondition(lambda self: "late_settle" not in self.without)
    @rule(n=st.integers(0, 2), finish=st.booleans(), ahead=st.booleans())
    def settle_is_held_up(self, n: int, finish: bool, ahead: bool = False) -> None:
        """A settle is on its way: it has not arrived, and may yet.

        Its connection broke; or it is the end of a batch, and the worker takes the next one ahead of the answer.
        """
        worker = self.workers[n]
        if worker.opened is None or self.holders.get(worker.member) != worker.name:
            return
        how = "more" if not finish else "back" if any(worker.left) else "end"
        worker.cut = True
        with pytest.raises(ConnectionError):
            worker.runner._settle(worker.opened, how)
        worker.cut = False
        self.late = (worker, how, copy(worker))
        self.ahead = ahead and how == "end"
        worker.lay_down()

    @precondition(lambda self: self.late)
    @rule()
    def settle_arrives(self) -> None:
        """Then it counts as long as its worker has not begun the batch again."""
        worker, how, then = self.late
        self.late, self.ahead = None, False
        before = self.look(), self.redis.hgetall(keys.COUNTS)
        worker.runner._script(**then.last_settle)
        self.stop_the_clock()
        if (self.look(), self.redis.hgetall(keys.COUNTS)) == before:
            return
        assert worker.member != then.member, "the batch was begun again, and now it is settled twice"
        queue = then.member.split("|")[0]
        self.account(then, queue)
        if how == "more":
            if not self.redis.exists(keys.batch_key(then.member.split("|")[1])):
                self.emptied.add(then.member)
            return
        self.tokens[lane_of(queue)] = min(1, self.tokens[lane_of(queue)] + (then.opened.allowance or 0))
        del self.holders[then.member]
        if then.member not in self.look().ledger:
            del self.deaths[then.member]

    def finish(self, worker: Worker) -> None:
        """Bring to its end what a worker has; it may find that it lost it."""
        if worker.member is None:
            return
        if worker.opened is None:
            self.open(worker)
        if worker.opened is None:
            return
        while worker.todo and not worker.halted and worker.opened.allowance != 0:
            self.do(worker, "handled")
        self.settle_as(worker, "back" if any(worker.left) else "end")


def machine(redis: Redis, without: frozenset[str] = frozenset()) -> type[Machine]:
    """The machine on that Redis, which it empties."""
    return type("Machine", (Machine,), {"redis": redis, "connection": PipelinedConnection(redis), "without": without})


def explore(redis: Redis, max_examples: int, steps: int, without: frozenset[str] = frozenset(), **more: Any) -> None:
    """Run the machine."""
    run_state_machine_as_test(
        machine(redis, without),
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_nothing_is_lost_or_done_twice(redis: Redis) -> None:
    """Whatever happens in whatever order, each event is owed until it is done, and done once."""
    explore(redis, 60, 50, derandomize=True)


def test_a_flush_sent_twice(redis: Redis) -> None:
    """What is sent once more makes no two batches that share their records."""
    made = machine(redis)()
    made.commit([("s0",)])
    made.commit([("s1",), ("c0",)])  # s1 joins the batch that waits, c0 has one of its own
    made.take(0)
    made.commit_again_on_a_new_connection(0)  # now s1 has one of its own, too
    made.holds()


def test_a_settle_that_comes_late(redis: Redis) -> None:
    """A settle that arrives after its worker has begun the batch again takes no record away that is not done."""
    made = machine(redis)()
    made.commit([("s0",), ("s1",), ("s2",)])
    made.work(0, ["handled"], "handle")
    made.settle_is_held_up(0, finish=False)
    made.take(0)
    made.claim(0)
    worker, _, then = made.late
    worker.runner._script(**then.last_settle)
    made.handle(0, ["handled"])
    made.settle(0, finish=False)
    present = {name for record in made.everything() for name in record.names}
    assert present >= {"s1", "s2"}
