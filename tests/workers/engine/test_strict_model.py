"""Strict order against a model: in whatever order things happen, and whoever dies, no message is handled too early."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from ingest.settings import load
from ingest.state import controls
from ingest.store import constants, keys
from tests.workers.conftest import Runner
from tests.workers.engine.test_strict_order import A, B, Bot, behind, make_due
from workers import Discard, Handlers, Reject, Snooze
from workers.engine import reaper, settle
from workers.engine.hand import Taken


class Crash(BaseException):
    """The worker process dies here."""


class World:
    """Workers that die, messages that fail, and what the handlers must see of each contact: the next message only once
    the one before has ended.
    """

    def __init__(self, redis: Redis, commit: Any, message: Any, take: Any, make: Callable[..., Any]) -> None:
        self.redis, self._commit, self._message, self._take = redis, commit, message, take
        self.bot = Bot()
        self.bot.does = self._does
        self.plan: dict[str, list[str]] = {}  # what the tries of a message are to end with, the last first
        self.sent = Counter[str]()  # messages by contact
        self.final: set[str] = set()
        self.calls = Counter[str]()
        self.too_early: list[str] = []
        self.meanwhile: list[Callable[[], None]] = []  # what happens while a handler runs
        self._at_work: tuple[str, Any]
        self._make = make
        self._born, self._now = 0, 1_700_000_000_000
        self.crashed = self.dying = False
        self.workers = [self._birth() for _ in range(2)]

    def _birth(self) -> tuple[str, Any]:
        self._born += 1
        name = f"w{self._born}"
        reaper.heartbeat_and_reap(self.redis, name)
        return name, self._make(self.bot.handlers, name, max_attempts=3, partitions=2)

    def send(self, contact: str, plans: list[list[str]]) -> None:
        first = self.sent[contact] + 1
        self.sent[contact] += len(plans)
        for n, plan in enumerate(plans, first):
            self.plan[f"{contact}-{n}"] = plan[::-1]
        numbers = range(first, first + len(plans))
        bodies = [self._message(f"{contact}-{n}", sender=contact) for n in numbers]
        self._now += 1  # batches that go back together are put in order by their arrival
        self._commit(*bodies, received_ms=self._now, partitions=2, batch=3)

    def _does(self, name: str, attempt: int) -> None:
        if self.dying:  # the rest of its thread is none of the process that it plays
            return
        contact, number = name.split("-")
        self.calls[name] += 1
        open_before = {f"{contact}-{n}" for n in range(1, int(number))} - self.final
        self.too_early += [f"{name} before {earlier}" for earlier in open_before]
        if self.meanwhile:
            self.meanwhile.pop()()
        what = self.plan[name].pop() if self.plan[name] else "handled"
        if what in ("handled", "rejected", "discarded") or (what == "failed" and attempt == 3):
            self.final.add(name)
        if what == "handled":
            return
        raise {"rejected": Reject(), "discarded": Discard(), "snoozed": Snooze(60), "failed": OSError()}[what]

    def arrive(self, contact: str, count: int) -> None:
        """While a handler runs, more arrives and is taken by its worker."""
        self.send(contact, [[]] * count)
        self._admit(*self._at_work)

    def pause(self) -> None:
        """While a handler runs, the lane is paused: what has not begun goes back."""
        controls.pause(self.redis, ["messages"])

    def stop(self) -> None:
        """While a handler runs, the worker is told to stop."""
        self._at_work[1].stop.set()

    def _admit(self, name: str, made: Any, room: int = 500) -> None:
        for queue, batch in self._take.many(name, "messages", room=room):
            token: Any = self.redis.hget(keys.TAKEN, f"{queue}|{batch}")
            records: Any = self.redis.lrange(keys.batch_key(batch), 0, -1)
            made.flow.admit(Taken(queue, batch, token.decode(), records, -1))

    def work(self, which: int, room: int = 500) -> None:
        self._at_work = name, made = self.workers[which]
        self._admit(name, made, room)
        made.flow.finish()
        controls.resume(self.redis, ["messages"])
        if made.stop.is_set():
            made.flow.leave()
            reaper.heartbeat_and_reap(self.redis, name, leaves=True)
            self.workers[which] = self._birth()

    def die(self, which: int, sent: int, carried_out: bool) -> None:
        """The worker dies at this settle of what it takes now, before or after Redis has carried it out."""
        name, made = self.workers[which]
        left, real = [sent], made.flow._settling.send

        def send(parts: Any) -> Any:
            left[0] -= 1
            if left[0] > 0:
                return real(parts)
            self.dying = True
            if carried_out and left[0] == 0:
                made.flow._connection.answer(real(parts))
            raise Crash

        made.flow._settling.send = send
        try:
            self.work(which)
        except Crash:
            self.crashed = True
        self.dying = False
        controls.resume(self.redis, ["messages"])
        made.flow._settling.send = real
        self.workers[which] = self._birth()
        reaper.heartbeat_and_reap(self.redis, self.workers[which][0], ended=name)
        for _, letter in self.redis.xrange(keys.dead_key("messages")):
            if letter[b"reason"] == b"poison":
                (element,) = orjson.loads(letter[b"body"])["messages"]
                self.final.add(element["id"])

    def end(self) -> None:
        self.meanwhile.clear()
        for n in range(600):
            make_due(self.redis)
            self.work(n % 2)
            if not self.redis.exists(keys.LEDGER):
                break
        sent = {f"{contact}-{n}" for contact, count in self.sent.items() for n in range(1, count + 1)}
        assert self.too_early == []
        assert self.final == sent
        assert not self.redis.exists(keys.HEADS)
        assert behind(self.redis) == 0


PLANS = st.lists(
    st.lists(st.sampled_from(["failed", "snoozed", "rejected", "discarded", "handled"]), max_size=3), max_size=4
)
CONTACTS = st.sampled_from([A, B])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), CONTACTS, PLANS),
        st.tuples(st.just("work"), st.integers(0, 1), st.sampled_from([1, 3, 500])),
        st.tuples(st.just("due")),
        st.tuples(st.just("arrive"), CONTACTS, st.integers(1, 4)),
        st.tuples(st.sampled_from(["pause", "stop"])),
        st.tuples(st.just("die"), st.integers(0, 1), st.integers(1, 3), st.booleans()),
    ),
    min_size=3,
    max_size=16,
)


@pytest.mark.timeout(300)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS)
def test_whatever_happens(
    steps: list[Any], redis: Redis, commit: Any, message: Any, take: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers take parts of the queues, die at any settle and are followed by others: each message ends, and none is
    handled while an earlier one of its contact waits for its next try."""
    redis.flushdb()
    made: list[Any] = []

    def make(registry: Handlers, name: str, **more: Any) -> Any:
        made.append(Runner(redis, registry, name, load(threads=1, **more)))
        return made[-1]

    monkeypatch.setattr(constants, "RELEASED", 2)
    monkeypatch.setattr(settle, "SETTLE_SECONDS", 0)
    try:
        world = World(redis, commit, message, take, make)
        for what, *how in steps:
            if what == "send":
                world.send(*how)
            elif what == "work":
                world.work(*how)
            elif what == "due":
                make_due(redis)
            elif what == "die":
                world.die(*how)
            else:
                world.meanwhile.append(functools.partial(getattr(world, what), *how))
        world.end()
        assert world.crashed or all(count <= 4 + 3 for count in world.calls.values())
    finally:
        for one in made:
            one.close()
