"""Strict order: while a contact's event waits for its next try, its later ones wait behind it, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.store import constants, keys
from ingest.store.records import pack
from workers import Discard, Handlers, PartialFailure, Reject, RetryIn, Snooze
from workers.dispatch.breakdowns import FAILURES
from workers.engine import reaper

A, B = "15550001", "15550002"


def make_due(redis: Redis) -> None:
    """What waits for its next try is due."""
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))  # type: ignore[union-attr,arg-type]


def behind(redis: Redis) -> int:
    """How many records wait behind another one."""
    return sum(int(redis.llen(key)) for key in redis.scan_iter(keys.behind_key("*")))  # type: ignore[arg-type]


class Bot:
    """A registry with a strict handler of messages: it notes `CONTACT-N` in `seen`, then does what `does` says."""

    def __init__(self, is_async: bool = False) -> None:
        self.handlers = Handlers()
        self.seen: list[str] = []
        self.does: Callable[[str, int], None] = lambda name, attempt: None
        if is_async:

            @self.handlers.message(strict_order=True)
            async def handle(event: Any) -> None:
                self._handle(event)
        else:

            @self.handlers.message(strict_order=True)
            def handle_plainly(event: Any) -> None:
                self._handle(event)

    def _handle(self, event: Any) -> None:
        self.seen.append(event.id)
        self.does(event.id, event.attempt)

    def of(self, contact: str) -> list[int]:
        """The numbers of this contact's messages, as the handler saw them."""
        return [int(name.split("-")[1]) for name in self.seen if name.startswith(contact)]


@pytest.fixture
def bot() -> Bot:
    return Bot()


@pytest.fixture
def send(commit: Any, message: Any) -> Callable[..., None]:
    """Commit messages with these numbers of a contact."""

    def run(contact: str, *numbers: int, **settings: Any) -> None:
        commit(*[message(f"{contact}-{n}", sender=contact) for n in numbers], **settings)

    return run


@pytest.fixture
def work(take: Any, redis: Redis) -> Callable[..., None]:
    """Have these workers (name and Runner) take and handle in turn until nothing is left; retries are due at once."""

    def run(*workers: tuple[str, Any]) -> None:
        for n in range(400):
            make_due(redis)
            name, made = workers[n % len(workers)]
            if given := take.many(name, "messages"):
                made.run(*given)
            elif not redis.exists(keys.LEDGER):
                return
        raise AssertionError("it does not end")

    return run


def failing(redis: Redis, name: str, times: int, error: Callable[[], BaseException] = lambda: RetryIn(60)) -> Any:
    """What a bot does that fails so often at that message."""
    left = [times]

    def does(seen: str, attempt: int) -> None:
        if seen == name and left[0]:
            left[0] -= 1
            raise error()

    return does


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_the_third_fails_twice(
    is_async: bool, send: Any, runner: Any, take: Any, work: Any, redis: Redis, nothing_left: Any
) -> None:
    """A's messages are seen as 1 2 3 3 3 4 5, B's all at once; the ones that waited cost no try."""
    bot = Bot(is_async)
    bot.does = failing(redis, f"{A}-3", 2, lambda: OSError("away"))
    send(A, 1, 2, 3, 4, 5)
    send(B, 1, 2, 3, 4, 5)
    made = runner(bot.handlers)
    made.run(*take.many("w1", "messages"))
    assert bot.of(A) == [1, 2, 3]
    assert bot.of(B) == [1, 2, 3, 4, 5]
    assert behind(redis) == 2
    work(("w1", made))
    assert bot.of(A) == [1, 2, 3, 3, 3, 4, 5]
    assert bot.of(B) == [1, 2, 3, 4, 5]
    counts = {name.decode(): int(count) for name, count in redis.hgetall(keys.COUNTS).items()}  # type: ignore[union-attr]
    assert counts == {"handled.message": 10, "retried.message": 2}
    assert not redis.exists(keys.HEADS)
    nothing_left()


def test_without_strict_order(send: Any, runner: Any, take: Any, redis: Redis) -> None:
    """Later messages go on, as always, if no handler asks for strict order."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == f"{A}-1":
            raise RetryIn(60)

    send(A, 1, 2)
    runner(handlers).run(*take.many("w1", "messages"))
    assert seen == [f"{A}-1", f"{A}-2"]
    assert not redis.exists(keys.HEADS)


@pytest.mark.parametrize("error", [lambda: RetryIn(60), lambda: Snooze(60), lambda: OSError("away")])
def test_what_comes_later_waits_too(
    error: Any, bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis
) -> None:
    """Also what arrives, or is taken by another worker, while an event waits for its next try, for whatever reason."""
    bot.does = failing(redis, f"{A}-1", 1, error)
    first, second = runner(bot.handlers, "w1"), runner(bot.handlers, "w2")
    send(A, 1)
    first.run(*take.many("w1", "messages"))
    send(A, 2, 3)
    second.run(*take.many("w2", "messages"))
    send(A, 4)
    first.run(*take.many("w1", "messages"))
    assert bot.seen == [f"{A}-1"]
    assert behind(redis) == 3
    work(("w2", second), ("w1", first))
    assert bot.of(A) == [1, 1, 2, 3, 4]


def test_what_was_taken_before_waits(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """Later batches that the worker has in hand when an event fails keep their order behind it."""
    bot.does = failing(redis, f"{A}-2", 1)
    made = runner(bot.handlers)
    send(A, 1, 2, 3, 4, 5, 6, 7, batch=2)
    made.run(*take.many("w1", "messages"))
    assert bot.of(A) == [1, 2]
    work(("w1", made))
    assert bot.of(A) == [1, 2, 2, 3, 4, 5, 6, 7]


def test_the_next_batch_begins_while_others_wait(bot: Bot, send: Any, runner: Any, take: Any, redis: Redis) -> None:
    """What is next in an order does not wait for what was opened just before it and has to wait itself."""
    bot.does = failing(redis, f"{A}-1", 1)
    made = runner(bot.handlers)
    send(A, 1)
    made.run(*take.many("w1", "messages"))
    send(A, 2)
    later = take.many("w1", "messages")
    make_due(redis)
    (head,) = take.many("w1", "messages")
    made.run(*later, head)
    assert bot.of(A) == [1, 1]
    made.run(*take.many("w1", "messages"))
    assert bot.of(A) == [1, 1, 2]


def test_several_in_one_notification(bot: Bot, commit: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """Each event of a notification has its own place in the order of its contact."""
    elements = [{"from": c, "id": f"{c}-{n}", "type": "text"} for n in (1, 2, 3) for c in (A, B)]
    bot.does = failing(redis, f"{A}-1", 2)
    made = runner(bot.handlers, partitions=1)
    commit(orjson.dumps({"messages": elements}), partitions=1)
    made.run(*take.many("w1", "messages"))
    assert (bot.of(A), bot.of(B)) == ([1], [1, 2, 3])
    work(("w1", made))
    assert (bot.of(A), bot.of(B)) == ([1, 1, 1, 2, 3], [1, 2, 3])


def test_a_stop_keeps_the_order(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """A worker that stops as an event fails tells in order of all that waits behind it, and gives back the rest."""
    made = runner(bot.handlers)

    def does(name: str, attempt: int) -> None:
        if len(bot.seen) == 2:
            made.stop.set()
            raise RetryIn(60)

    bot.does = does
    send(A, *range(1, 10), batch=2)
    made.run(*take.many("w1", "messages"))
    reaper.heartbeat_and_reap(redis, "w1", leaves=True)
    assert bot.of(A) == [1, 2]
    work(("w2", runner(bot.handlers, "w2")))
    assert bot.of(A) == [1, 2, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_dead_letter_lets_the_others_go_on(
    bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis, dead: Any
) -> None:
    """After WA_MAX_ATTEMPTS, and at once when the handler rejects it or it is too old."""

    def does(name: str, attempt: int) -> None:
        if name == f"{A}-1":
            raise OSError
        if name == f"{A}-3":
            raise Reject
        if name == f"{A}-5":
            raise Discard

    bot.does = does
    made = runner(bot.handlers, max_attempts=3)
    send(A, 1, 2, 3, 4, 5, 6)
    work(("w1", made))
    assert bot.of(A) == [1, 1, 1, 2, 3, 4, 5, 6]
    assert [letter["reason"] for letter in dead("messages")] == ["failed", "rejected"]
    assert not redis.exists(keys.HEADS)


def test_one_try_is_all(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis, dead: Any) -> None:
    """What waited for a try that is not made after all goes on in its order."""
    bot.does = failing(redis, f"{A}-1", 1, OSError)
    made = runner(bot.handlers, max_attempts=1)
    send(A, 1, 2, 3, 4, batch=2)
    work(("w1", made))
    assert bot.of(A) == [1, 2, 3, 4]
    assert [letter["reason"] for letter in dead("messages")] == ["failed"]
    assert not redis.exists(keys.HEADS)


def test_a_handler_that_always_fails(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """What is put off meanwhile keeps its order, too, uses up no try, and goes on once the handler works again."""
    down = [True]

    def does(name: str, attempt: int) -> None:
        if down[0]:
            raise OSError

    bot.does = does
    contacts = [f"1555{n:04}" for n in range(FAILURES + 3)]
    made = runner(bot.handlers, partitions=1)
    for contact in contacts:
        send(contact, 1, 2, 3, partitions=1)
        made.run(*take.many("w1", "messages"))
    assert len(bot.seen) == FAILURES
    assert redis.scard(keys.PUT_OFF) == len(contacts) - FAILURES + 1
    down[0] = False
    bot.seen.clear()
    work(("w2", runner(bot.handlers, "w2", partitions=1)))
    assert [bot.of(contact) for contact in contacts] == [[1, 2, 3]] * len(contacts)


def test_only_handlers_that_ask_for_it(commit: Any, message: Any, runner: Any, take: Any, work: Any) -> None:
    """An event that goes to no handler with strict order does not wait, and nothing waits for a handler without it."""
    handlers, seen = Handlers(), []
    left = {"strict": 1, "plain": 1}

    @handlers.message("text", strict_order=True)
    def strict(event: Any) -> None:
        seen.append(f"strict {event.id}")
        if event.id == "m1" and left["strict"]:
            left["strict"] -= 1
            raise RetryIn(60)

    @handlers.message()
    def plain(event: Any) -> None:
        seen.append(f"plain {event.id}")
        if event.id == "m4" and left["plain"]:
            left["plain"] -= 1
            raise RetryIn(60)

    made = runner(handlers)
    commit(message("m1"), message("m2"), message("m3", type="image"))
    made.run(*take.many("w1", "messages"))
    assert seen == ["strict m1", "plain m1", "plain m3"]
    work(("w1", made))
    assert seen[3:] == ["strict m1", "strict m2", "plain m2"]
    commit(message("m4"), message("m5"))
    made.run(*take.many("w1", "messages"))
    assert seen[6:] == ["strict m4", "plain m4", "strict m5", "plain m5"]
    work(("w1", made))
    assert seen[10:] == ["plain m4"]


def test_copies_of_what_waits_are_dropped(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """What the sender repeats meanwhile is a copy, whether the first one waits behind or is the one that failed."""
    bot.does = failing(redis, f"{A}-1", 2)
    made = runner(bot.handlers)
    send(A, 1, 2)
    made.run(*take.many("w1", "messages"))
    send(A, 1, 2, 3)
    work(("w1", made))
    assert bot.of(A) == [1, 1, 1, 2, 3]


def test_what_an_operator_has_handled_again(
    bot: Bot, commit: Any, message: Any, runner: Any, take: Any, work: Any, redis: Redis
) -> None:
    """It does not wait, and nothing waits for it: its turn was over."""
    bot.does = failing(redis, f"{A}-1", 1)
    made = runner(bot.handlers)
    commit(message(f"{A}-1", sender=A), message(f"{A}-2", sender=A))
    (batch,) = take.many("w1", "messages")
    made.run(batch)
    letter = pack(message(f"{A}-9", sender=A), 1_700_000_000_000, force=True)
    commit(message(f"{A}-3", sender=A))
    (again,) = take.many("w1", "messages")
    redis.lpush(keys.batch_key(again[1]), letter)
    made.run(again)
    assert bot.of(A) == [1, 9]
    work(("w1", made))
    assert bot.of(A) == [1, 9, 1, 2, 3]


def test_numbers_of_a_business_apart(bot: Bot, commit: Any, runner: Any, take: Any, redis: Redis) -> None:
    """What a contact writes to another business number does not wait."""

    def body(number: str, id: str) -> bytes:
        value = {"metadata": {"phone_number_id": number}, "messages": [{"from": A, "id": id, "type": "text"}]}
        return orjson.dumps({"entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]})

    bot.does = failing(redis, f"{A}-1", 1)
    commit(body("n1", f"{A}-1"), body("n2", f"{A}-2"), body("n1", f"{A}-3"))
    runner(bot.handlers).run(*take.many("w1", "messages"))
    assert bot.of(A) == [1, 2]


def test_a_death_at_the_head(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """A batch that is next in an order is not divided when its worker dies: the first of it is given out alone."""
    bot.does = failing(redis, f"{A}-1", 1)
    made = runner(bot.handlers)
    send(A, 1, 2, 3, 4)
    made.run(*take.many("w1", "messages"))
    make_due(redis)
    made.run(*take.many("w1", "messages"))
    for count in (3, 1):  # 2 3 4, then 2 alone
        reaper.heartbeat_and_reap(redis, "w9")
        ((_, batch),) = take.many("w9", "messages")
        assert redis.llen(keys.batch_key(batch)) == count
        reaper.heartbeat_and_reap(redis, "w1", ended="w9")
        assert behind(redis) == 2
    work(("w1", made))
    assert bot.of(A) == [1, 1, 2, 3, 4]


def test_what_kills_its_workers_lets_the_others_go_on(
    bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis, dead: Any
) -> None:
    """A head that killed its workers again and again is a dead letter, and what waited behind it goes on."""
    bot.does = failing(redis, f"{A}-1", 1)
    made = runner(bot.handlers)
    send(A, 1, 2, 3)
    made.run(*take.many("w1", "messages"))
    make_due(redis)
    for n in range(constants.POISON_DEATHS):
        reaper.heartbeat_and_reap(redis, f"x{n}")
        assert len(take.many(f"x{n}", "messages")) == 1
        reaper.heartbeat_and_reap(redis, "w1", ended=f"x{n}")
    assert [letter["reason"] for letter in dead("messages")] == ["poison"]
    work(("w1", made))
    assert bot.of(A) == [1, 2, 3]
    assert not redis.exists(keys.HEADS)


def test_a_head_that_nobody_has(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """If the batch that others wait for is gone, because an older version took it, a reaping lets them go on."""
    bot.does = failing(redis, f"{A}-1", 1)
    made = runner(bot.handlers)
    send(A, 1, 2, 3)
    made.run(*take.many("w1", "messages"))
    (head,) = redis.hvals(keys.HEADS)  # type: ignore[misc]
    queue, id = head.decode().split("|")
    redis.zrem(keys.LEDGER, head)
    redis.delete(keys.batch_key(id), keys.scheduled_key(queue))
    redis.delete(keys.REAPER)
    reaper.heartbeat_and_reap(redis, "w1")
    work(("w1", made))
    assert bot.of(A) == [1, 2, 3]


def test_the_partitions_are_changed(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """What comes through another partition than the event that failed waits behind it, and stays in its own queue."""
    bot.does = failing(redis, f"{A}-1", 2)
    first = runner(bot.handlers, "w1", partitions=1)
    second = runner(bot.handlers, "w2", partitions=8)
    send(A, 1, 2, partitions=1)
    first.run(*take.many("w1", "messages"))
    send(A, 3, 4, partitions=8)
    second.run(*take.many("w2", "messages"))
    (of_contact,) = redis.scan_iter(keys.behind_key("*"))
    waiting = [entry.partition(b"|")[0] for entry in redis.lrange(of_contact, 0, -1)]  # type: ignore[union-attr]
    assert waiting[0] == b"messages.0" != waiting[1]
    assert len(waiting) == 3
    work(("w2", second), ("w1", first))
    assert bot.of(A) == [1, 1, 1, 2, 3, 4]


def test_two_fail_as_the_partitions_are_changed(
    bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis
) -> None:
    """There is one event for which others of its order wait; another one that fails meanwhile waits behind it."""
    first = runner(bot.handlers, "w1", partitions=1)
    second = runner(bot.handlers, "w2", partitions=8)
    send(A, 1, 2, partitions=1)
    send(A, 3, 4, partitions=8)
    of_first = take.many("w1", "messages", room=1)
    assert [queue for queue, _ in of_first] == ["messages.0"]

    def does(name: str, attempt: int) -> None:
        if bot.seen == [f"{A}-3"]:
            first.run(*of_first)
        if attempt == 1 and name in (f"{A}-1", f"{A}-3"):
            raise RetryIn(60)

    bot.does = does
    second.run(*take.many("w2", "messages"))
    assert bot.of(A) == [3, 1]
    assert sum(int(redis.zcard(key)) for key in redis.scan_iter(f"{keys.RQ}:scheduled:*")) == 1  # type: ignore[arg-type]
    work(("w2", second), ("w1", first))
    assert sorted(bot.of(A)) == [1, 1, 2, 3, 3, 4]
    assert [n for n in bot.of(A)[2:] if n < 3] == [1, 2]
    assert [n for n in bot.of(A)[2:] if n > 2] == [3, 4]


@pytest.mark.timeout(120)
def test_a_flood_behind_one_event(bot: Bot, send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """Ten thousand messages of a contact that wait cost their records and little more, and no script takes long with
    them; then they are handled in their order."""
    count, made = 10_000, runner(bot.handlers, partitions=1)
    bot.does = failing(redis, f"{A}-1", 1)
    send(A, *range(1, count + 1), partitions=1)
    redis.slowlog_reset()
    before = int(redis.info("memory")["used_memory_dataset"])  # type: ignore[index]
    while given := take.many("w1", "messages"):
        made.run(*given)
    assert bot.of(A) == [1]
    assert behind(redis) == count - 1
    (list_key,) = redis.scan_iter(keys.behind_key("*"))
    size = sum(map(len, redis.lrange(list_key, 0, -1)))  # type: ignore[arg-type]
    assert redis.memory_usage(list_key) < 1.1 * size  # type: ignore[operator]
    assert int(redis.info("memory")["used_memory_dataset"]) < before + 0.5 * size  # type: ignore[index]
    work(("w1", made))
    assert bot.of(A) == [1, *range(1, count + 1)]
    took = [entry["duration"] for entry in redis.slowlog_get(128) if entry["command"].startswith(b"EVALSHA")]  # type: ignore[union-attr]
    assert max(sorted(took)[:-2], default=0) < 100_000  # while it is at one, other programs may stop the server


def test_in_lists(send: Any, runner: Any, take: Any, work: Any, redis: Redis) -> None:
    """A list has one event of a contact at most: the next one waits until that has ended, or behind it."""
    handlers, lists = Handlers(), []

    @handlers.message(bulk=10, strict_order=True)
    def handle(events: list[Any]) -> None:
        lists.append([event.id for event in events])
        raise PartialFailure({one: RetryIn(60) for one in events if one.id == f"{A}-2" and one.attempt == 1})

    send(A, 1, 2, 3, partitions=1)
    send(B, 1, 2, 3, partitions=1)
    made = runner(handlers, partitions=1)
    made.run(*take.many("w1", "messages"))
    assert lists == [[f"{A}-1", f"{B}-1"], [f"{A}-2", f"{B}-2"], [f"{B}-3"]]
    work(("w1", made))
    assert lists[3:] == [[f"{A}-2"], [f"{A}-3"]]
