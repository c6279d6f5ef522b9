"""The Lua scripts against a model: in whatever order things happen, nothing is lost and nothing is done twice."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from ingest.routing import handles, route
from ingest.state import controls
from ingest.store import append, constants, keys, scripts
from ingest.store.constants import LEAVE_MS
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import PipelinedConnection
from ingest.store.queues import LANES, lane_of, partition_number
from ingest.store.records import pack_into, unpack
from workers.dispatch.outcomes import Outcome
from workers.engine import claims, reaper, settle
from workers.engine import take as take_room
from workers.engine.batch_state import BatchState
from workers.engine.hand import Hand, Open, Part
from workers.engine.results import Results
from workers.events import Event

PARTITIONS = 2
CONTACTS = ["15550000", "15550001", "15550003", "15550004"]
PARTITIONED = [f"messages.{n}" for n in range(PARTITIONS)]
QUEUES = [*PARTITIONED, "statuses", "other"]
MAX_COUNT, MAX_BYTES, MAX_ATTEMPTS = 3, 420, 3
LOCK = keys.REAPER
LONG_AGO = 1
MAX_AGE = 1e12
APART, POISON_DEATHS, PARKED_RECORDS = 2, 3, 3
BASE_MS = 1_700_000_000_000
JUNK = "junk"
RARELY = 1e-9  # events per second: a bucket that holds one token and does not fill while a test runs
WINDOW = 100_000.0

STAGES = ("sent", "delivered", "read")
NAMES = [*(f"m{n}" for n in range(40)), *(f"s{n}" for n in range(6)), "c0", "c1"]
DELAYS = {"failed": 3600.0, "put_off": 3600.0, "snoozed": 3601.0}  # which share a due time, mostly
KINDS = {"m": "message", "s": "status", "c": "change"}


class Owed(NamedTuple):
    """A record as the model sees it: where it waits, its try, and the events in it that count there."""

    queue: str
    attempt: int
    waits: int
    names: tuple[str, ...]


class Try(NamedTuple):
    """An event of a record, with its try."""

    name: str
    attempt: int
    waits: int


OUTCOMES = st.lists(
    st.sampled_from(["handled", "failed", "failed", "discarded", "rejected", "put_off", "snoozed"]),
    min_size=1,
    max_size=8,
)


def contact(name: str) -> str:
    return CONTACTS[int(name[1:]) % len(CONTACTS)]


def order_key(name: str) -> str | None:
    """Events with the same one are never in work at a time: a contact's messages, a message's statuses."""
    return {"m": contact(name), "s": f"M{int(name[1:]) % 2}", "c": None}[name[0]]


def claim_of(one: Try) -> Any:
    """What is claimed of an event: the event itself, or of a status its message."""
    return order_key(one.name) if one.name[0] == "s" else one


def body(names: tuple[str, ...], seq: int) -> bytes:
    """A notification of one kind of events; what has no name cannot be parsed."""
    if not names:
        return JUNK.encode()
    if names[0][0] == "m":
        elements = [{"from": contact(name), "id": name, "type": "text"} for name in names]
        return orjson.dumps({"messages": elements, "seq": seq})
    if names[0][0] == "s":
        elements = [
            {"id": order_key(name), "recipient_id": "1", "status": STAGES[int(name[1:]) // 2]} for name in names
        ]
        return orjson.dumps({"statuses": elements, "seq": seq})
    changes = [{"field": "account_update", "value": {"id": name}} for name in names]
    return orjson.dumps({"entry": [{"id": "9", "time": 1, "changes": changes}], "seq": seq})


def name_in(raw: Any) -> str:
    """The name of an element: the reverse of `body`."""
    if "changes" in raw or "field" in raw:
        return str(raw["value"]["id"])
    return f"s{2 * STAGES.index(raw['status']) + int(raw['id'][1:])}" if "status" in raw else str(raw["id"])


def owed(queue: str, record: bytes) -> Owed:
    """The reverse of `body` and `pack`, for one queue."""
    found = unpack(record)
    if found.body == JUNK.encode():
        return Owed(queue, found.attempt, found.waits, ())
    tree = orjson.loads(found.body)
    if "entry" in tree:
        elements = [change for entry in tree["entry"] for change in entry["changes"]]
    else:
        elements = tree.get("messages", tree.get("statuses"))
    partition = partition_number(queue)
    messages = "messages" in tree
    ours = [one for one in elements if handles(partition, found, None, one if messages else None, one.get("from"))]
    names = [name_in(element) for element in ours]
    return Owed(queue, found.attempt, found.waits, tuple(names))


def apart(record: Owed) -> list[Owed]:
    """Its events, each as owed alone: they may be written together or not."""
    return [record._replace(names=(name,)) for name in record.names] or [record]


def results_of(opened: BatchState, how: str) -> Results:
    return opened.give_back() if how == "back" else opened.collect()


def seq_of(record: bytes) -> int:
    """When it was committed, among all."""
    text = unpack(record).body
    return 0 if text == JUNK.encode() else int(orjson.loads(text).get("seq", 0))


def notifications() -> st.SearchStrategy[tuple[str, ...]]:
    one_kind = [st.lists(st.sampled_from([n for n in NAMES if n[0] == kind]), max_size=2) for kind in "mmmssc"]
    return st.one_of(one_kind).map(tuple)


@dataclass(eq=False)
class Batch:
    """A batch that a worker was given, and what it has done with it."""

    queue: str
    id: str
    token: str
    given: list[bytes]
    opened: BatchState | None = None
    todo: list[tuple[int, Event]] = field(default_factory=list)
    busy: list[tuple[int, Event, claims.Claim]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)  # events of each record that are not done
    done: list[tuple[Try, str]] = field(default_factory=list)  # not settled yet
    ended: list[tuple[int, str]] = field(default_factory=list)  # all that are done, with their records
    gone: int = 0

    def __post_init__(self) -> None:
        self.member = f"{self.queue}|{self.id}"
        self.records = [owed(self.queue, record) for record in self.given]
        self.seqs = [seq_of(record) for record in self.given]

    def try_of(self, index: int, event: Event) -> Try:
        return Try(name_in(event.raw), event.attempt, self.records[index].waits)


class Running(NamedTuple):
    """An event in a handler."""

    batch: Batch
    index: int
    event: Event
    one: Try


class Settle(NamedTuple):
    """A call of settle.lua: its batches, each with how, and the tokens that come back."""

    parts: list[tuple[Batch, str]]
    args: list[Any]
    unused: dict[str, int]


@dataclass(eq=False)
class Worker:
    """A worker process, from its first sign of life to its last."""

    name: str
    calls: settle.Arguments
    numbers: Iterator[int]
    alive: bool = True  # as the others see it
    hands: dict[str, list[Batch]] = field(default_factory=dict)  # what it believes to have, the oldest first
    running: list[Running] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)  # of capped lanes
    careful: bool = False
    takes: list[list[Any]] = field(default_factory=list)
    taken: list[Batch] = field(default_factory=list)  # what the last take gave
    last_settle: Settle | None = None

    def all(self) -> list[Batch]:
        return [batch for of_queue in self.hands.values() for batch in of_queue]

    def may_begin(self) -> list[Running]:
        """Events that are the first of their order key, and are no more than the tokens of their lane."""
        found = []
        busy = {order_key(item.one.name) for item in self.running} - {None}
        for queue, of_queue in self.hands.items():
            for batch in of_queue:
                for index, event in batch.todo:
                    one = batch.try_of(index, event)
                    key = order_key(one.name)
                    if key not in busy and self.tokens.get(lane_of(queue)) != 0:
                        found.append(Running(batch, index, event, one))
                    if key is not None:
                        busy.add(key)
        return found

    def drop(self, batch: Batch) -> None:
        of_queue = self.hands.get(batch.queue, [])
        if batch in of_queue:
            of_queue.remove(batch)
            if not of_queue:
                del self.hands[batch.queue]
        self.running = [item for item in self.running if item.batch is not batch]


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
    scheduled: dict[str, dict[str, float]]
    wanted: dict[str, str]


class Machine(RuleBasedStateMachine):
    """Receivers, workers, RQ and the clock, with the model that says what must come of it."""

    redis: Redis
    connection: PipelinedConnection
    without: frozenset[str] = frozenset()  # what does not happen in this run

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.redis.set(LOCK, "nobody")  # a reaping is a step of its own here
        self.template = job_template()
        self.append = self.redis.register_script(scripts.lua(append.__file__, "append.lua"))
        self.take_script = self.redis.register_script(scripts.lua(take_room.__file__, "take.lua"))
        self.settle_script = self.redis.register_script(scripts.lua(take_room.__file__, "settle.lua"))
        self.revive_script = self.redis.register_script(scripts.lua(take_room.__file__, "revive.lua"))
        self.claims_script = claims.Claims(self.connection)
        self.flushes: list[list[Any]] = []
        self.born = 0
        self.seq = 0
        # The model
        self.committed: set[str] = set()
        self.finished: set[str] = set()
        self.owed: Counter[Owed] = Counter()
        self.holders: dict[str, str] = {}  # as `taken` has it
        self.claims: dict[Any, str] = {}
        self.remembered: set[Try] = set()
        self.claimed_ever = False
        self.deaths: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.ahead: dict[str, int] = {}  # of batches in work: events that were counted, of records that have not left
        self.letters: Counter[tuple[str, str]] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.handled: set[str] = set()
        self.last_seq: dict[str, int] = {}
        self.paused: set[str] = set()
        self.capped: set[str] = set()
        self.tokens = dict.fromkeys(LANES, 1)
        self.late: Settle | None = None
        self.calm = False
        self.in_order = True  # until RQ loses or repeats something, or a worker works on what it lost
        self.workers = [self.birth() for _ in range(3)]

    def birth(self) -> Worker:
        self.born += 1
        name = f"w{self.born}"
        reaper.heartbeat_and_reap(self.redis, name)
        return Worker(name, settle.Arguments(name, WINDOW), itertools.count(1))

    # What the receiver does

    @initialize(
        bodies=st.lists(notifications(), min_size=20, max_size=50),
        rooms=st.lists(st.sampled_from([1, 3, 500]), max_size=3),
        calm=st.booleans(),
    )
    def backlog(self, bodies: list[tuple[str, ...]], rooms: list[int], calm: bool) -> None:
        """In half of the runs nothing breaks: workers then have several batches in hand."""
        self.calm = calm
        self.commit(bodies)
        for n, room in enumerate(rooms):
            self.take(n, room)

    @rule(bodies=st.lists(notifications(), min_size=2, max_size=14))
    def commit(self, bodies: list[tuple[str, ...]]) -> None:
        records: dict[str, list[bytes]] = {}
        for names in bodies:
            self.seq += 1
            text = body(names, self.seq)
            received_ms = BASE_MS + self.seq // 8  # several in a millisecond
            pack_into(records, route(text, PARTITIONS), text, received_ms)
            self.committed.update(names)
        flush: list[Any] = [f"n{len(self.flushes):08x}", self.template, MAX_COUNT, MAX_BYTES, "NOW"]
        for queue, of_queue in records.items():
            flush += (queue, len(of_queue), *of_queue)
            self.owed.update(one for record in of_queue for one in apart(owed(queue, record)))
        self.flushes.append(flush)
        self.send(flush)

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

    # Take

    @rule(
        n=st.integers(0, 2),
        room=st.sampled_from([1, 2, 3, 5, 500]),
        lanes=st.sampled_from([LANES, *[[o] for o in LANES]]),
    )
    def take(self, n: int, room: int = 500, lanes: Any = LANES) -> None:
        self.give(self.workers[n], room, lanes)

    def is_suspect(self, member: str) -> bool:
        """Its workers died twice: no other batch is to die with it."""
        return self.deaths[member] > 1

    def give(self, worker: Worker, room: int = 500, lanes: Any = LANES) -> bool:
        """Take for a worker, as its flow does. False when there is nothing to take."""
        holds = bool(worker.hands)
        if worker.careful and holds:
            return False
        args: list[Any] = [
            keys.RQ,
            keys.WA,
            worker.name,
            self.template,
            rq_now(),
            next(worker.numbers),
            int(not holds),
            6,
        ]
        for lane in lanes:
            queues = [queue for queue in QUEUES if lane_of(queue) == lane]
            args += [lane, room, len(queues), *queues]
        before = self.look()
        closed = self.paused | {lane for lane in self.capped if not self.tokens[lane]}
        wait, share, careful, more, given = self.take_script(keys=take_room.KEYS, args=args)
        worker.takes.append(args)
        worker.careful = careful == 1
        assert self.redis.hget(keys.WANTED, worker.name) is None
        assert share == int(before.wanted.get(worker.name, 0))
        worker.taken = [self.check_given(worker, closed, *one) for one in given]
        for batch in worker.taken:
            worker.hands.setdefault(batch.queue, []).append(batch)
        if any(self.is_suspect(batch.member) for batch in worker.taken):
            assert len(given) == 1, "something was given beside what may kill its worker"
            assert not holds, "what may kill its worker was given to one that holds something"
            assert worker.careful
        rest = [lane for lane in lanes if lane not in closed]
        self.check_rest(worker, rest, {lane.decode() for lane in more}, leaves=0 <= wait <= LEAVE_MS)
        part = math.ceil(len(PARTITIONED) / max(1, int(self.redis.zcard(keys.ALIVE))))
        assert len(self.look().leases.keys() - before.leases.keys()) <= part
        return bool(given)

    def check_given(self, worker: Worker, closed: set[str], *one: Any) -> Batch:
        queue, id, token = (part.decode() for part in one[:3])
        batch, tokens, lane = Batch(queue, id, token, one[3]), one[4], lane_of(queue)
        assert lane not in closed, "given out of a lane that is paused or at its cap"
        assert batch.member not in self.holders, "given to two workers"
        assert token.split("#")[0] == worker.name
        if queue in PARTITIONED:
            others = [
                t for m, t in self.holders.items() if m.startswith(f"{queue}|") and t.split("#")[0] != worker.name
            ]
            assert not others, "a partition with two workers"
        self.holders[batch.member] = token
        assert (tokens >= 0) == (lane in self.capped)
        if tokens >= 0:
            self.tokens[lane] -= tokens
            worker.tokens[lane] = worker.tokens.get(lane, 0) + tokens
            assert self.tokens[lane] >= 0, "more tokens than there were"
        else:
            worker.tokens.pop(lane, None)
        assert self.redis.hexists(f"{keys.RQ}:job:{id}", "data")
        assert self.redis.lrange(keys.batch_key(id), 0, -1) == batch.given
        return batch

    def check_rest(self, worker: Worker, lanes: list[str], more: set[str], leaves: bool) -> None:
        """What this worker could take is in a lane of which it is told that there is more. Or it `leaves` partitions
        that nobody has to others: then it looks again soon.
        """
        state = self.look()
        for queue in QUEUES:
            lease = state.leases.get(queue, worker.name).split("|")[0]
            if lane_of(queue) in set(lanes) - more and lane_of(queue) not in self.capped and lease == worker.name:
                waiting = [f"{queue}|{id}" for id in state.queued[queue]]
                if leaves and queue in PARTITIONED and queue not in state.leases:
                    continue
                assert not [member for member in waiting if member in state.ledger and member not in state.taken]

    def take_again(self, n: int) -> None:
        """The last take is sent once more: its connection broke before the answer came."""
        worker = self.workers[n]
        if not worker.takes:
            return
        before = self.look()
        _, _, careful, more, given = self.take_script(keys=take_room.KEYS, args=worker.takes[-1])
        assert self.look() == before, "taken twice"
        found = {one[2].decode(): one[3] for one in given}
        mine = [batch for batch in worker.taken if self.holders.get(batch.member) == batch.token]
        assert found == {batch.token: before.records[batch.member] for batch in mine}
        assert careful == any(self.is_suspect(batch.member) for batch in mine)
        assert more, "it would not ask again"

    def take_comes_late(self, n: int, which: int) -> None:
        """An earlier take is carried out, which had been sent again: Redis hung."""
        worker = self.workers[n]
        if len(worker.takes) < which:
            return
        before = self.look()
        assert self.take_script(keys=take_room.KEYS, args=worker.takes[-which])[4] == []
        assert self.look() == before, "what nobody waits for was given out"

    @rule(n=st.integers(0, 2), what=st.sampled_from(["flush", "take", "late take", "settle"]), which=st.integers(0, 2))
    def something_is_sent_again(self, n: int, what: str, which: int) -> None:
        if what == "flush" and self.flushes and "commit_again" not in self.without:
            self.commit_again_on_a_new_connection(which)
        elif what == "take":
            self.take_again(n)
        elif what == "late take":
            self.take_comes_late(n, which + 2)
        elif what == "settle":
            self.settle_again(n)

    # Claim

    def open_all(self, worker: Worker) -> None:
        for batch in worker.all():
            if batch.opened is None:
                self.open(worker, batch)

    def open(self, worker: Worker, batch: Batch) -> None:
        """Parse and claim a batch, as `Flow._open` does."""
        if batch.member not in self.look().ledger:
            worker.drop(batch)  # it was silent for long, and others have done all of it: every event is a copy
            return
        batch.opened = opened = BatchState(batch.queue, batch.id, batch.given, MAX_ATTEMPTS, MAX_AGE, batch.token)
        batch.left = [0] * len(batch.given)
        asked, mine = [], set()
        for index, event in opened.events:
            one, claim = batch.try_of(index, event), claims.of(event, opened.records[index].waits)
            batch.left[index] += 1
            if one in mine:
                self.end_copy(batch, index, event, one)
                continue
            mine.add(one)
            asked.append((index, event, claim))
        self.claimed_ever |= bool(asked)
        self.claim(batch, asked)

    def end_copy(self, batch: Batch, index: int, event: Event, one: Try) -> None:
        assert batch.opened is not None
        batch.opened.finish(index, event, Outcome("duplicate"))
        batch.left[index] -= 1
        batch.done.append((one, "duplicate"))
        batch.ended.append((index, one.name))

    def claim(self, batch: Batch, asked: list[tuple[int, Event, claims.Claim]]) -> None:
        assert batch.opened is not None
        calls = self.claims_script.ask(batch.member, [claim for _, _, claim in asked])
        replies = b"".join(self.connection.answer(call) for call in calls)
        batch.busy = []
        expected = [self.expect(batch, batch.try_of(index, event)) for index, event, _ in asked]
        assert [claims.GO if one == claims.SUPERSEDED else one for one in replies] == expected, "claims"
        for reply, (index, event, claim) in zip(expected, asked, strict=True):
            one = batch.try_of(index, event)
            if reply == claims.GO:
                self.claims[claim_of(one)] = batch.member
                batch.opened.claimed(event, claim)
                batch.todo.append((index, event))
            elif reply == claims.BUSY:
                batch.busy.append((index, event, claim))
            else:
                self.end_copy(batch, index, event, one)

    def expect(self, batch: Batch, one: Try) -> int:
        """What Redis is to answer. A claim counts while its batch is in work."""
        holder = self.claims.get(claim_of(one))
        held = holder != batch.member and holder in self.holders
        if one in self.remembered or (held and one.name[0] != "s"):
            return claims.DUPLICATE
        return claims.BUSY if held else claims.GO

    def ask_again(self, worker: Worker) -> None:
        for batch in worker.all():
            if batch.busy:
                self.claim(batch, batch.busy)

    # Handle

    @precondition(lambda self: any(worker.hands for worker in self.workers))
    @rule(n=st.integers(0, 2), which=st.integers(0, 20))
    def begin(self, n: int, which: int) -> None:
        """An event goes into a handler and stays there."""
        worker = self.workers[self.busy(n)]
        self.open_all(worker)
        self.ask_again(worker)
        found = worker.may_begin()
        if found:
            self.begin_one(worker, found[which % len(found)])

    @precondition(lambda self: any(worker.running for worker in self.workers))
    @rule(which=st.integers(0, 20), outcome=OUTCOMES)
    def end(self, which: int, outcome: list[str]) -> None:
        running = [(worker, item) for worker in self.workers for item in worker.running]
        self.end_one(*running[which % len(running)], outcome[0])

    def begin_one(self, worker: Worker, item: Running) -> None:
        batch, name = item.batch, item.one.name
        held = self.holders.get(batch.member) == batch.token
        key = order_key(name)
        for other in self.workers:
            for running in other.running if held and key is not None else ():
                if self.holders.get(running.batch.member) == running.batch.token:
                    assert order_key(running.one.name) != key, "two at a time"
        batch.todo.remove((item.index, item.event))
        worker.running.append(item)
        lane = lane_of(batch.queue)
        if lane in worker.tokens:
            worker.tokens[lane] -= 1
        self.in_order &= held
        if name[0] == "m" and item.one[1:] == (1, 0) and self.in_order and name not in self.handled:
            seq = batch.seqs[item.index]
            assert seq >= self.last_seq.get(contact(name), 0), "a contact's messages changed their order"
            self.last_seq[contact(name)] = seq

    def end_one(self, worker: Worker, item: Running, outcome: str) -> None:
        worker.running.remove(item)
        self.handled.add(item.one.name)
        opened = item.batch.opened
        assert opened is not None
        opened.finish(item.index, item.event, Outcome(outcome, delay=DELAYS.get(outcome)))
        item.batch.left[item.index] -= 1
        item.batch.done.append((item.one, outcome))
        item.batch.ended.append((item.index, item.one.name))

    @rule(n=st.integers(0, 2), room=st.sampled_from([1, 2, 500]), outcomes=OUTCOMES, settles=st.booleans())
    def work(self, n: int, room: int, outcomes: list[str], settles: bool) -> None:
        """A worker takes, handles something, and perhaps settles it."""
        worker = self.workers[n]
        self.give(worker, room)
        self.open_all(worker)
        self.ask_again(worker)
        self.handle(worker, outcomes)
        if settles:
            self.settle_parts(worker, self.ready_parts(worker, more=True))

    @precondition(lambda self: any(worker.hands for worker in self.workers))
    @rule(n=st.integers(0, 2), outcomes=OUTCOMES)
    def go_on(self, n: int, outcomes: list[str]) -> None:
        """A worker handles and settles something of what it has."""
        worker = self.workers[self.busy(n)]
        self.open_all(worker)
        self.ask_again(worker)
        self.handle(worker, outcomes)
        self.settle_parts(worker, self.ready_parts(worker, more=True))

    def handle(self, worker: Worker, outcomes: list[str]) -> None:
        for outcome in outcomes:
            if found := worker.may_begin():
                self.begin_one(worker, found[0])
                self.end_one(worker, worker.running[-1], outcome)

    @rule(n=st.integers(0, 2))
    def work_to_the_end(self, n: int) -> None:
        self.give(self.workers[n])
        self.finish(self.workers[n])

    def finish(self, worker: Worker) -> None:
        """Bring to its end what a worker has; it may find that it lost it."""
        self.open_all(worker)
        for item in list(worker.running):
            self.end_one(worker, item, "handled")
        for _ in range(5):  # what waits for a status of another batch may go on once that is settled
            self.ask_again(worker)
            while worker.may_begin():
                self.handle(worker, ["handled"])
            self.settle_parts(worker, self.ready_parts(worker, more=False))
        self.settle_parts(worker, [part for queue in list(worker.hands) for part in self.release(worker, queue)])

    # Settle

    @precondition(lambda self: any(worker.hands for worker in self.workers))
    @rule(n=st.integers(0, 2), more=st.booleans())
    def settle(self, n: int, more: bool) -> None:
        """What is done, of several batches in one call."""
        worker = self.workers[self.busy(n)]
        self.settle_parts(worker, self.ready_parts(worker, more))

    def ready_parts(self, worker: Worker, more: bool) -> list[tuple[Batch, str]]:
        parts = [(batch, "more" if any(batch.left) else "end") for batch in worker.all() if batch.opened]
        return [part for part in parts if more or part[1] == "end"]

    @precondition(lambda self: any(worker.hands for worker in self.workers))
    @rule(n=st.integers(0, 2), which=st.integers(0, 3))
    def give_back(self, n: int, which: int) -> None:
        """All of a partition of which nothing is in a handler goes to others, or all of a lane that is paused."""
        worker = self.workers[self.busy(n)]
        busy = {item.batch.queue for item in worker.running}
        queues = [queue for queue in worker.hands if queue not in busy]
        if queues:
            self.open_all(worker)
            self.settle_parts(worker, self.release(worker, queues[which % len(queues)]))

    def release(self, worker: Worker, queue: str) -> list[tuple[Batch, str]]:
        """The youngest first, as `Flow._release` does it."""
        found = [batch for batch in reversed(worker.hands.get(queue, [])) if batch.opened]
        return [(batch, "back" if any(batch.left) else "end") for batch in found]

    def build(self, worker: Worker, parts: list[tuple[Batch, str]]) -> Settle:
        """The call that settles these; those that end leave the worker's hand with it."""
        made = []
        for batch, how in parts:
            assert batch.opened is not None
            made.append(Part(Open(batch.opened, Hand(batch.opened.queue), True), results_of(batch.opened, how), how))
            if how != "more":
                worker.drop(batch)
        left = {lane_of(batch.queue) for batch, _ in parts} - {lane_of(queue) for queue in worker.hands}
        unused = {lane: worker.tokens.pop(lane) for lane in left if lane in worker.tokens}
        unused = {lane: tokens for lane, tokens in unused.items() if tokens > 0}
        return Settle(parts, worker.calls.build(made, {}, {}, unused), unused)

    def settle_parts(self, worker: Worker, parts: list[tuple[Batch, str]]) -> None:
        if not parts:
            return
        call = self.build(worker, parts)
        wanted = int(self.redis.hget(keys.WANTED, worker.name) or 0)
        share, paused, capped, *replies = self.settle_script(keys=settle.KEYS, args=call.args)
        worker.last_settle = call
        assert share == wanted
        lanes = {lane_of(batch.queue) for batch, _ in parts}
        assert {lane.decode() for lane in paused} == lanes & self.paused
        assert {lane.decode() for lane in capped} == lanes & self.capped
        for lane in lanes - self.capped:
            worker.tokens.pop(lane, None)
        for lane in lanes & self.capped & {lane_of(queue) for queue in worker.hands}:
            worker.tokens.setdefault(lane, 0)
        for batch in self.settled(call, replies):
            worker.drop(batch)

    def settled(self, call: Settle, replies: list[bytes]) -> list[Batch]:
        """What a settle must have done. Returns the batches that were lost."""
        for lane, tokens in call.unused.items():
            self.tokens[lane] = min(1, self.tokens[lane] + tokens)
        lost = []
        for (batch, how), reply in zip(call.parts, replies, strict=True):
            if self.holders.get(batch.member) != batch.token:
                assert reply == b"lost"
                lost.append(batch)
                continue
            assert reply.decode() == how
            self.account(batch, how)
            if how != "more":
                del self.holders[batch.member]
        ledger = self.look().ledger
        for batch, how in call.parts:
            if how != "more" and batch.member not in ledger:
                self.deaths.pop(batch.member, None)
        return lost

    def account(self, batch: Batch, how: str) -> None:
        lane = lane_of(batch.queue)
        for one, outcome in batch.done:
            kind = KINDS[one.name[0]]
            if outcome == "duplicate":
                self.counts[f"duplicate.{kind}"] += 1
                continue
            self.remembered.add(one)
            if outcome in ("put_off", "snoozed"):
                self.counts[f"snoozed.{kind}"] += outcome == "snoozed"
                self.owed[Owed(batch.queue, one.attempt, one.waits + 1, (one.name,))] += 1
            elif outcome == "failed" and one.attempt < MAX_ATTEMPTS:
                self.counts[f"retried.{kind}"] += 1
                self.owed[Owed(batch.queue, one.attempt + 1, 0, (one.name,))] += 1
            else:
                self.finished.add(one.name)
                dead = outcome in ("failed", "rejected")
                self.counts[f"{'dead' if dead else outcome}.{kind}"] += 1
                self.letters[lane, outcome] += dead
                self.succeeded[one.name] += not dead
        self.free(batch)
        batch.done = []
        while batch.gone < len(batch.records) and not batch.left[batch.gone]:
            record = batch.records[batch.gone]
            self.owed.subtract(apart(record))
            if not record.names:
                self.counts["dead.notification"] += 1
                self.letters[lane, "unreadable"] += 1
            batch.gone += 1
        numbers = range(batch.gone, len(batch.left))
        changed = [n for n in numbers if not batch.left[n] or batch.left[n] < len(batch.records[n].names)]
        for index in range(batch.gone, changed[-1] + 1) if how == "back" and changed else ():
            self.go_back_in_part(batch, index)
        self.ahead[batch.member] = sum(index >= batch.gone for index, _ in batch.ended) if how == "more" else 0

    def go_back_in_part(self, batch: Batch, index: int) -> None:
        """What is done of a record, before or in the last one of which something is done, does not go back."""
        record, lane = batch.records[index], lane_of(batch.queue)
        self.owed.subtract(record._replace(names=(name,)) for n, name in batch.ended if n == index)
        if not record.names:
            self.owed.subtract([record])
            self.counts["dead.notification"] += 1
            self.letters[lane, "unreadable"] += 1

    def free(self, batch: Batch) -> None:
        """A claim ends with the last event that it is held for."""
        running = [item for worker in self.workers for item in worker.running if item.batch is batch]
        events = [*batch.todo, *((item.index, item.event) for item in running)]
        still = {claim_of(batch.try_of(index, event)) for index, event in events}
        for one, outcome in batch.done:
            if outcome != "duplicate" and claim_of(one) not in still:
                self.claims.pop(claim_of(one), None)

    def settle_again(self, n: int) -> None:
        """The last settle is sent once more, at once or late: its connection broke before the answer came."""
        worker = self.workers[n]
        if worker.last_settle is None:
            return
        before = self.look(), self.redis.hgetall(keys.COUNTS), self.redis.hgetall(keys.CONTROLS)
        _, _, _, *replies = self.settle_script(keys=settle.KEYS, args=worker.last_settle.args)
        after = self.look(), self.redis.hgetall(keys.COUNTS), self.redis.hgetall(keys.CONTROLS)
        before[0].wanted.pop(worker.name, None)  # an answer tells of it, whichever
        assert after == before, "settled twice"
        assert [reply.decode() for reply in replies] == [how for _, how in worker.last_settle.parts]

    def die_with_a_settle_on_its_way(self, n: int, more: bool) -> None:
        """It has not arrived, and may yet."""
        if parts := self.ready_parts(self.workers[n], more):
            self.late = self.build(self.workers[n], parts)
        self.die(n, reaped=False)

    @precondition(lambda self: self.late)
    @rule()
    def settle_arrives(self) -> None:
        """Then it counts as long as no reaping found that its worker is dead."""
        assert self.late is not None
        call, self.late = self.late, None
        _, _, _, *replies = self.settle_script(keys=settle.KEYS, args=call.args)
        self.settled(call, replies)

    # What happens to workers

    @rule(
        n=st.integers(0, 2),
        how=st.sampled_from(["leave", "leave", "die", "silent", "settling", "again"]),
        yes=st.booleans(),
        outcomes=OUTCOMES,
    )
    def a_worker_ends(self, n: int, how: str, yes: bool, outcomes: list[str]) -> None:
        n = self.busy(n)
        if how == "leave" or self.calm:
            self.leave(n, settles=yes)
        elif how == "die":
            self.die(n, reaped=yes)
        elif how == "silent":
            self.fall_silent(n, reaped=yes, settles="failed" in outcomes)
        elif how == "settling" and "late_settle" not in self.without:
            self.die_with_a_settle_on_its_way(n, more=yes)
        elif how == "again":
            self.die_again_and_again(n, 2 + yes, outcomes)

    def die(self, n: int, reaped: bool) -> None:
        """SIGKILL at any point; another process starts in its place."""
        self.silence(self.workers[n])
        self.workers[n] = self.birth()
        if reaped:
            self.reap((n + 1) % 3)

    def die_again_and_again(self, n: int, times: int, outcomes: list[str]) -> None:
        """What is at the front kills its workers: it is split, then a dead letter."""
        for _ in range(times):
            self.work(n, 500, outcomes, settles=False)
            self.silence(self.workers[n])
            self.workers[n] = self.birth()
            self.reap((n + 1) % 3)

    def fall_silent(self, n: int, reaped: bool, settles: bool) -> None:
        """It gives no sign of life but goes on: a machine that was suspended, a network that was cut."""
        worker = self.workers[n]
        self.silence(worker)
        worker.alive = False
        if reaped:
            self.reap((n + 1) % 3)
        if settles:
            self.finish(worker)

    def busy(self, n: int) -> int:
        """A worker with a batch, if there is one: what happens to the others teaches little."""
        busy = [number for number, worker in enumerate(self.workers) if worker.hands]
        return busy[n % len(busy)] if busy else n

    def silence(self, worker: Worker) -> None:
        self.redis.zadd(keys.ALIVE, {worker.name: LONG_AGO})

    def leave(self, n: int, settles: bool) -> None:
        """SIGTERM. What is in a handler is interrupted; all goes back, even if the last settle does not arrive."""
        worker = self.workers[n]
        self.open_all(worker)
        worker.running = []
        if settles:
            self.settle_parts(worker, [part for queue in list(worker.hands) for part in self.release(worker, queue)])
        worker.alive = False
        state = self.look()
        self.reaped_by(worker.name)
        reaper.heartbeat_and_reap(self.redis, worker.name, leaves=True)
        self.check_went_back(state)
        self.workers[n] = self.birth()

    @rule(n=st.integers(0, 2))
    def reap(self, n: int) -> None:
        worker = self.workers[n]
        worker.alive = True
        for other in self.workers:
            if other.alive:
                reaper.heartbeat_and_reap(self.redis, other.name)
        self.reaped_by(worker.name)
        before = self.look()
        self.reap_once(worker.name)
        self.check_went_back(before)
        for _ in range(2):  # the search may be anywhere when it begins
            while self.redis.exists(keys.REAPED):
                self.reap_once(worker.name)
            self.reap_once(worker.name)
        while self.redis.exists(keys.REAPED):
            self.reap_once(worker.name)
        self.check_swept()

    def reap_once(self, name: str) -> None:
        self.redis.delete(LOCK)
        back = reaper.heartbeat_and_reap(self.redis, name)
        self.redis.set(LOCK, "nobody")
        state = self.look()
        for queue in QUEUES:
            oldest_first = sorted((state.ledger[m], m.split("|")[1]) for m in back if m.startswith(f"{queue}|"))
            assert state.queued[queue][: len(oldest_first)] == [batch for _, batch in oldest_first]

    def reaped_by(self, name: str) -> None:
        """What a reaping is going to do."""
        alive = {worker.name for worker in self.workers if worker.alive}
        state = self.look()
        divided, buried = set(), set()
        for member, token in list(self.holders.items()):
            holder = token.split("#")[0]
            if holder in alive:
                continue
            del self.holders[member]
            ahead = self.ahead.pop(member, 0)
            if holder == name:
                self.counts["again"] += ahead
                continue
            queue, batch = member.split("|")
            records = state.records[member]
            self.deaths[member] += 1
            count = self.deaths[member]
            if len(records) > 1 or (len(records) == 1 and count > 1 and "_p" not in batch):
                for first in range(0, len(records), math.ceil(len(records) / APART)):
                    self.deaths[f"{queue}|{batch}{'_p' if count > 1 else '_d'}{first + 1:05d}"] = count
                divided.add(member)
            elif len(records) == 1 and count >= POISON_DEATHS:
                self.owed.subtract(apart(owed(queue, records[0])))
                self.counts["dead.notification"] += 1
                self.letters[lane_of(queue), "poison"] += 1
                self.finished.update(owed(queue, records[0]).names)
                buried.add(member)
            self.counts["again"] += 0 if member in buried else ahead
        for member in divided | buried:
            del self.deaths[member]
        if buried:  # its claims end, and those of batches that had ended before
            left = state.ledger.keys() - divided - buried
            self.claims = {key: of for key, of in self.claims.items() if of in left}

    def check_went_back(self, before: State) -> None:
        """What dead workers held is in its queue at once, however long the search for lost batches takes."""
        state = self.look()
        for member in before.taken.keys() - state.taken.keys() & state.ledger.keys():
            queue, batch = member.split("|")
            assert batch in state.queued[queue]

    def check_swept(self) -> None:
        state = self.look()
        for member in state.ledger:
            queue, batch = member.split("|")
            assert member in state.taken or batch in state.queued[queue] or batch in state.scheduled[queue], member

    # What RQ and the clock do

    @precondition(lambda self: not self.calm)
    @rule(
        queue=st.sampled_from(QUEUES),
        what=st.sampled_from(["first", "queue", "job", "scheduled", "queues", "twice"]),
        n=st.integers(0, 20),
        front=st.booleans(),
    )
    def rq_errs(self, queue: str, what: str, n: int, front: bool) -> None:
        if what == "twice":
            self.pushed_twice(n, front)
        else:
            self.rq_loses(queue, what)

    @rule(revives=st.booleans())
    def the_clock_goes_on(self, revives: bool) -> None:
        if revives:
            self.revive()
        else:
            self.time_passes()

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

    def pushed_twice(self, n: int, front: bool) -> None:
        members = list(self.look().ledger)
        if members:
            queue, batch = members[n % len(members)].split("|")
            self.in_order = False
            (self.redis.lpush if front else self.redis.rpush)(keys.queue_key(queue), batch)

    def time_passes(self) -> None:
        """Retries are due, and there are tokens again."""
        for queue in QUEUES:
            for batch in self.redis.zrange(keys.scheduled_key(queue), 0, -1):
                self.redis.zadd(keys.scheduled_key(queue), {batch: LONG_AGO})
        for lane in LANES:
            self.redis.hdel(keys.CONTROLS, f"tokens.{lane}", f"at.{lane}")
        self.tokens = dict.fromkeys(LANES, 1)

    def revive(self) -> None:
        """A handler works again: what was put off is due, and nothing else."""
        before, now = self.look(), self.redis.time()[0]
        while self.revive_script(keys=[keys.PUT_OFF, keys.PARKED, keys.LEDGER], args=[keys.RQ, keys.WA]):
            pass
        after = self.look()
        for queue in QUEUES:
            assert before.scheduled[queue].keys() == after.scheduled[queue].keys()
            for id, at in after.scheduled[queue].items():
                assert at <= now + 1 if id.startswith("w") else at == before.scheduled[queue][id]

    # What an operator says

    @rule(
        lane=st.sampled_from(LANES),
        what=st.sampled_from(["pause", "resume", "resume", "resume", "limit", "off", "off"]),
    )
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

    # What must hold after each step

    def look(self) -> State:
        with self.redis.pipeline() as pipe:
            pipe.zrange(keys.LEDGER, 0, -1, withscores=True)
            for key in (keys.TAKEN, keys.LEASES, keys.TAILS, keys.WANTED):
                pipe.hgetall(key)
            pipe.keys(keys.batch_key("*"))
            for queue in QUEUES:
                pipe.lrange(keys.queue_key(queue), 0, -1)
                pipe.zrange(keys.scheduled_key(queue), 0, -1, withscores=True)
            ledger, *hashes = pipe.execute()
        hashes, lists, waiting = hashes[:4], hashes[4], hashes[5:]
        taken, leases, tails, wanted = ({k.decode(): v.decode() for k, v in found.items()} for found in hashes)
        members = {member.decode(): score for member, score in ledger}
        with self.redis.pipeline() as pipe:
            for member in members:
                pipe.lrange(keys.batch_key(member.split("|")[1]), 0, -1)
            records = dict(zip(members, pipe.execute(), strict=True))
        return State(
            members,
            taken,
            leases,
            tails,
            records,
            {key.decode().removeprefix(keys.batch_key("")) for key in lists},
            {queue: [id.decode() for id in ids] for queue, ids in zip(QUEUES, waiting[::2], strict=True)},
            {queue: {id.decode(): at for id, at in ids} for queue, ids in zip(QUEUES, waiting[1::2], strict=True)},
            wanted,
        )

    def everything(self) -> Counter[Owed]:
        records = self.look().records.items()
        return Counter(one for m, of_batch in records for r in of_batch for one in apart(owed(m.split("|")[0], r)))

    @invariant()
    def holds(self) -> None:
        state = self.look()
        ids = [member.split("|")[1] for member in state.ledger]
        assert len(set(ids)) == len(ids), "two batches share their records"
        assert state.lists == set(ids), "records that nobody owes, or owed without records"
        assert state.taken == self.holders
        assert state.taken.keys() <= state.ledger.keys(), "given out, but not owed"
        self.check_leases(state)
        there = self.everything()
        assert there == +self.owed, (there - self.owed, self.owed - there)
        present = {name for record in there for name in record.names}
        assert self.committed <= self.finished | present, "lost"
        assert all(times <= 1 for times in self.succeeded.values()), "done twice"
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
        self.check_parked(state)
        counts = {name.decode(): int(count) for name, count in self.redis.hgetall(keys.COUNTS).items()}
        assert counts == +self.counts
        assert self.redis.hlen(keys.CLAIMS) == len(self.claims) + self.claimed_ever

    def check_parked(self, state: State) -> None:
        """What may be joined is known with its size, and what waits until it is due lies in bounded batches."""
        for member, of_batch in state.records.items():
            if member.split("|")[1][0] in "rw":
                assert len(of_batch) <= PARKED_RECORDS
        for slot, value in self.redis.hgetall(keys.PARKED).items():
            queue, id = slot.decode().split("|")[0], value.decode().split("|")[0]
            member = f"{queue}|{id}"
            if id in state.scheduled[queue] and member in state.ledger.keys() - state.taken.keys():
                assert int(value.split(b"|")[1]) == sum(map(len, state.records[member]))
                assert state.ledger[member] == min(unpack(record).received_ms for record in state.records[member])

    def check_leases(self, state: State) -> None:
        """A partition is leased while something of it is in work: to one worker, for so many batches."""
        held: dict[str, Counter[str]] = {}
        by_worker: dict[str, set[str]] = {}
        for member, token in state.taken.items():
            queue, worker = member.split("|")[0], token.split("#")[0]
            by_worker.setdefault(worker, set()).add(member)
            if queue in PARTITIONED:
                held.setdefault(queue, Counter())[worker] += 1
        assert all(len(workers) == 1 for workers in held.values()), "a partition with two workers"
        leases = {queue: f"{worker}|{count}" for queue, workers in held.items() for worker, count in workers.items()}
        assert state.leases == leases, "the leases are not what is in work"
        for members in by_worker.values():
            assert len(members) == 1 or not any(map(self.is_suspect, members)), "beside what may kill its worker"

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
        names = (keys.LEDGER, keys.TAKEN, keys.LEASES, keys.DEATHS, keys.WANTED)
        assert found.isdisjoint(names)
        assert not self.calm or found.isdisjoint((keys.PARKED, keys.PUT_OFF))
        assert not [k for k in found if ":batch:" in k or ":job:" in k or ":queue:" in k or ":scheduled:" in k]
        assert self.claims == {}, "claims that nobody will ever settle"
        letters: Counter[tuple[str, str]] = Counter()
        for lane in LANES:
            for _, letter in self.redis.xrange(keys.dead_key(lane)):
                letters[lane, letter[b"reason"].decode()] += 1
        assert letters == +self.letters


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that a few batches reach them."""
    limits = {"APART": APART, "PARKED_RECORDS": PARKED_RECORDS, "PROMOTED": 2, "REVIVED": 2}
    for name, value in {**limits, "SEARCH_BATCHES": 2, "SEARCH_COST": 3}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(reaper, "_SCRIPT", scripts.lua(reaper.__file__, "reap.lua"))


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


@pytest.mark.timeout(400)
def test_nothing_is_lost_or_done_twice(redis: Redis) -> None:
    """Whatever happens in whatever order, each event is owed until it is done, and done once."""
    explore(redis, 30, 50, derandomize=True)


def test_a_flush_sent_twice(redis: Redis) -> None:
    """What is sent once more makes no two batches that share their records."""
    made = machine(redis)()
    made.commit([("s0",)])
    made.commit([("s1",), ("c0",)])  # s1 joins the batch that waits, c0 has one of its own
    made.take(0)
    made.commit_again_on_a_new_connection(0)  # now s1 has one of its own, too
    made.holds()


def test_a_batch_that_went_back_is_divided(redis: Redis) -> None:
    """What a batch had claimed before it went back and was divided is no copy of anything."""
    made = machine(redis)()
    made.commit([("c0",), ("c1",)])
    made.take(0)
    made.give_back(0, 0)
    made.take(1, room=1)
    made.finish(made.workers[1])
    made.teardown()
    assert made.succeeded == {"c0": 1, "c1": 1}


def test_order_of_what_was_divided(redis: Redis) -> None:
    """The parts of a batch go back in their order, before a batch that arrived in the same millisecond."""
    made = machine(redis)()
    made.commit([("m0",), ("m4",)])
    made.take(0)
    made.give_back(0, 0)
    made.commit([("m8",)])
    for _ in range(3):
        made.take(0, room=1)
    assert len(made.workers[0].all()) == 3
    made.die(0, reaped=True)
    made.teardown()
    assert made.succeeded == {"m0": 1, "m4": 1, "m8": 1}


def test_two_batches_with_a_status_of_one_message_die(redis: Redis) -> None:
    """A batch that is taken alone does not wait for one that waits, too."""
    made = machine(redis)()
    made.commit([("s0",)])
    made.take(0)
    made.commit([("s2",)])
    made.take(0)
    older, younger = made.workers[0].all()
    made.open(made.workers[0], younger)
    made.open(made.workers[0], older)
    assert older.busy
    made.die(0, reaped=True)
    made.take(1)
    made.die(1, reaped=True)
    made.take(2)
    made.finish(made.workers[2])
    assert made.succeeded == {"s0": 1}
    made.teardown()


def test_a_settle_that_comes_too_late(redis: Redis) -> None:
    """What a worker sent before it counted as dead has no effect once its batches went back."""
    made = machine(redis)()
    made.commit([("s0",), ("c0",)])
    made.take(0)
    made.open_all(made.workers[0])
    made.handle(made.workers[0], ["handled", "handled"])
    made.late = made.build(made.workers[0], made.ready_parts(made.workers[0], more=False))
    made.fall_silent(0, reaped=True, settles=False)
    made.take(1, lanes=["statuses"])
    made.settle_arrives()
    made.holds()
    made.teardown()
    assert made.succeeded == {"s0": 1, "c0": 1}
