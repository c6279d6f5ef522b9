"""News of contacts: what was last seen is remembered, and what differs is told once."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from workers import Discard, Handlers, Reject
from workers.dispatch.outcomes import HANDLED, Outcome
from workers.engine import profiles
from workers.events import Event, Message, Profile
from workers.events.parsing import parse

NOW_MS = 1_700_000_000_000
FACTS = {"name": "Ada", "username": "ada.l", "number": "15550001", "user_id": "US.1", "identity": "key1"}
SENDER = {"number": "15550001", "user_id": "US.1"}
News = tuple[set[str], dict[str, str | None], dict[str, str | None]]

_ids = itertools.count()


def body(business: str = "77", id: str = "", system: Any = None, **facts: str) -> bytes:
    """A Cloud notification with one message, which says these facts of its contact and nothing else."""
    contact = {"wa_id": "number", "user_id": "user_id", "identity_key_hash": "identity"}
    message = {"from": "number", "from_user_id": "user_id"}
    raw: dict[str, Any] = {key: facts[fact] for key, fact in message.items() if fact in facts}
    raw |= {"id": id or f"m{next(_ids)}", "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}}
    value: dict[str, Any] = {"metadata": {"phone_number_id": business}, "messages": [raw]}
    if system:
        raw |= {"type": "system", "system": system}
    if not system or "name" in facts:
        known = {key: facts[fact] for key, fact in contact.items() if fact in facts}
        value["contacts"] = [known | {"profile": {k: facts[k] for k in ("name", "username") if k in facts}}]
    return orjson.dumps({"object": "o", "entry": [{"id": "42", "changes": [{"field": "messages", "value": value}]}]})


class Bot:
    """Handlers that keep all they get: `events` in order, `news` of the profile events; `fails` makes them raise."""

    def __init__(self, asynchronous: bool = False) -> None:
        self.handlers = Handlers()
        self.events: list[Event] = []
        self.fails: dict[str, BaseException] = {}

        def take(event: Event) -> None:
            if event.id in self.fails:
                raise self.fails[event.id]
            self.events.append(event)

        async def take_async(event: Event) -> None:
            take(event)

        for decorate in (self.handlers.message(), self.handlers.profile()):
            decorate(take_async if asynchronous else take)

    @property
    def news(self) -> list[News]:
        found = [event for event in self.events if isinstance(event, Profile)]
        return [(set(event.changed), dict(event.old), dict(event.new)) for event in found]


Deliver = Callable[..., None]


@pytest.fixture
def deliver(commit: Callable[..., None], take: Callable[..., Any], runner: Callable[..., Any]) -> Deliver:
    """Bodies through Redis to a worker that has just started, in a batch (or one for each partition)."""

    def run(bot: Bot, *bodies: bytes, seconds: float = 0, **settings: Any) -> None:
        if bodies:
            commit(*bodies, received_ms=NOW_MS + round(seconds * 1000), **settings)
        worker = runner(bot.handlers)
        while isinstance(taken := take("w1", "messages"), tuple):
            worker.run(*taken)

    return run


@pytest.fixture
def retry(redis: Redis, deliver: Deliver) -> Callable[[Bot], None]:
    """Make all retries due, and run them."""

    def run(bot: Bot) -> None:
        for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
            redis.zadd(key, {id: 1 for id, _ in redis.zscan_iter(key)})
        deliver(bot)

    return run


@pytest.mark.parametrize(
    ("fact", "value"),
    [("name", "Bea"), ("username", "bea"), ("number", "15550002"), ("user_id", "US.2"), ("identity", "key2")],
)
def test_each_fact_that_changes_is_told_once(deliver: Deliver, fact: str, value: str) -> None:
    """A fact that differs from what was last seen gives one profile event, after its message, and then no more."""
    bot, changed = Bot(), FACTS | {fact: value}
    deliver(bot, body(**FACTS))
    deliver(bot, body(**changed))
    deliver(bot, body(**changed))
    assert [event.kind for event in bot.events] == ["message", "message", "profile", "message"]
    assert bot.news == [({fact}, {fact: None}, {fact: value})]
    news = bot.events[2]
    assert isinstance(news, Profile)
    assert news.contact == changed["number"]
    assert (news.id, news.raw, news.business) == (bot.events[1].id, bot.events[1].raw, "77")


def test_several_facts_in_one_event(deliver: Deliver) -> None:
    """What one message changes comes as one event."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    deliver(bot, body(**FACTS | {"name": "Bea", "identity": "key2"}))
    assert bot.news == [({"name", "identity"}, {"name": None, "identity": None}, {"name": "Bea", "identity": "key2"})]


@pytest.mark.parametrize("left_out", [(*"",), ("name",), ("username", "identity"), ("user_id",), ("name", "number")])
def test_what_is_not_said_is_no_news(deliver: Deliver, left_out: tuple[str, ...]) -> None:
    """A message that leaves facts out changes nothing: what was seen before is still what the next is compared with."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    deliver(bot, body(**{fact: value for fact, value in FACTS.items() if fact not in left_out}))
    deliver(bot, body(**FACTS))
    assert bot.news == []
    deliver(bot, body(**dict.fromkeys(FACTS, "else") | SENDER))
    assert [changed for changed, _, _ in bot.news] == [{"name", "username", "identity"}]


def test_what_was_never_said_is_no_news(deliver: Deliver) -> None:
    """The first time that a fact is said it is not a change; the second time it may be."""
    bot = Bot()
    deliver(bot, body(number="15550001"))
    deliver(bot, body(number="15550001", username="ada"))
    assert bot.news == []
    deliver(bot, body(number="15550001", username="bea"))
    assert [changed for changed, _, _ in bot.news] == [{"username"}]


def test_onprem_contacts_and_identity(deliver: Deliver, message: Callable[..., bytes]) -> None:
    """The On-Premises form has its facts elsewhere: `identity.hash` of the message, and no user id."""
    bot = Bot()
    deliver(bot, message("m1", identity={"hash": "key1"}))
    deliver(bot, message("m2", identity={"hash": "key2"}))
    assert bot.news == [({"identity"}, {"identity": None}, {"identity": "key2"})]


def test_a_copy_is_no_news(deliver: Deliver) -> None:
    """A message that the sender sends again gives no second event, beside the first or after it."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    changed = body(**FACTS | {"name": "Bea"})
    deliver(bot, changed, changed)
    deliver(bot, body(**FACTS))
    deliver(bot, changed, seconds=60)
    assert [new for _, _, new in bot.news] == [{"name": "Bea"}, {"name": "Ada"}]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_news_in_a_copy(deliver: Deliver, redis: Redis, asynchronous: bool, together: bool) -> None:
    """A copy that says something else of the contact than its message did: that is told, once, and to handlers of
    profiles alone, whether it comes with its message or later."""
    bot, again = Bot(asynchronous), FACTS | {"name": "Bea", "user_id": "US.2"}
    bodies = [body(id="m-1", **FACTS), body(id="m-1", **again), body(id="m-1", **again), body(id="m-1", **FACTS)]
    if together:
        deliver(bot, *bodies)
    else:
        for n, each in enumerate(bodies):
            deliver(bot, each, seconds=n)
    assert [event.kind for event in bot.events] == ["message", "profile"]
    assert bot.news == [({"name", "user_id"}, {"name": None, "user_id": None}, {"name": "Bea", "user_id": "US.2"})]
    assert redis.hgetall(keys.COUNTS) == {b"handled.message": b"1", b"duplicate.message": b"3"}
    deliver(bot, body(**again), seconds=10)
    assert [event.kind for event in bot.events] == ["message", "profile", "message"]


def test_all_wait_for_a_profile_handler(commit: Any, take: Any, runner: Any) -> None:
    """Others do not go on without one that has a rate: its news would be none when the event came again."""
    handlers, called = Handlers(), []

    @handlers.message()
    def answer(message: Message) -> None:
        called.append(message.name)

    @handlers.profile(rate="1/s")
    def rename(profile: Profile) -> None:
        called.append(f"news of {profile.new['name']}")

    made = runner(handlers)
    for names in (("Ada", "Ben"), ("Eve", "Bob")):
        commit(*[body(name=name, number=f"1555000{n}") for n, name in enumerate(names)])
        while given := take.many("w1", "messages"):
            made.run(*given)
    assert sorted(map(str, called)) == ["Ada", "Ben", "Bob", "Eve", "news of Bob", "news of Eve"]


def test_news_in_a_copy_beside_a_bulk_handler(commit: Any, take: Any, runner: Any, redis: Redis) -> None:
    """A bulk handler of messages does not get the copy either; the news is told."""
    handlers, seen = Handlers(), []
    handlers.message(bulk=10)(lambda messages: seen.extend(message.id for message in messages))
    handlers.profile()(lambda profile: seen.append(dict(profile.new)))
    for n, name in enumerate(("Ada", "Bea", "Bea")):
        commit(body(id="m-1", **FACTS | {"name": name}), received_ms=NOW_MS + n)
        made = runner(handlers)
        while isinstance(taken := take("w1", "messages"), tuple):
            made.run(*taken)
    assert seen == ["m-1", {"name": "Bea"}]
    assert redis.hgetall(keys.COUNTS) == {b"handled.message": b"1", b"duplicate.message": b"2"}


def test_what_a_copy_adds_is_seen(deliver: Deliver) -> None:
    """A fact that a copy is the first to say is no news, and what a later message says is compared with it."""
    bot = Bot()
    deliver(bot, body(id="m-1", number="15550001"))
    deliver(bot, body(id="m-1", **SENDER), seconds=1)
    assert bot.news == []
    deliver(bot, body(**SENDER | {"user_id": "US.2"}), seconds=2)
    assert [new for _, _, new in bot.news] == [{"user_id": "US.2"}]


def test_a_copy_is_told_once(deliver: Deliver, redis: Redis, dead: Any, logged: list[Any]) -> None:
    """When a handler fails at the news of a copy, that is logged, and neither tried again nor a dead letter; the next
    message tells."""
    bot, changed = Bot(), FACTS | {"name": "Bea"}
    deliver(bot, body(id="m-1", **FACTS))
    bot.fails["m-1"] = ValueError("no")
    deliver(bot, body(id="m-1", **changed), seconds=1)
    assert [line["event"] for line in logged] == ["events failed"]
    assert redis.hgetall(keys.COUNTS) == {b"handled.message": b"1", b"duplicate.message": b"1"}
    assert not redis.exists(keys.LEDGER)
    assert dead("messages") == []
    deliver(bot, body(**changed), seconds=2)
    assert [new for _, _, new in bot.news] == [{"name": "Bea"}]


def test_a_copy_of_what_failed_first(deliver: Deliver, retry: Callable[[Bot], None]) -> None:
    """A copy may tell before its message, which waits for its next try; both are handled once."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    bot.fails["m-1"] = ValueError("no")
    deliver(bot, body(id="m-1", **FACTS), seconds=1)
    bot.fails.clear()
    deliver(bot, body(id="m-1", **FACTS | {"name": "Bea"}), seconds=2)
    assert [new for _, _, new in bot.news] == [{"name": "Bea"}]
    retry(bot)
    assert [event.kind for event in bot.events] == ["message", "profile", "message"]
    deliver(bot, body(**FACTS | {"name": "Bea"}), seconds=3)
    assert len(bot.news) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_order_within_a_batch(deliver: Deliver, asynchronous: bool) -> None:
    """Messages of one batch are compared with each other, in their order, and contacts with themselves alone."""
    bot = Bot(asynchronous)
    names = {"15550001": "ABBCA", "15550002": "AAAAA", "15550003": "ABABA"}
    deliver(bot, *[body(number=who, name=name[n]) for n in range(5) for who, name in names.items()])
    told: dict[str | None, str] = {}
    for event in bot.events:
        if isinstance(event, Profile):
            told[event.contact] = told.get(event.contact, "") + (event.new["name"] or "")
    assert told == {"15550001": "BCA", "15550003": "BABA"}
    deliver(bot, *[body(number=who, name="A") for who in names])
    assert len(bot.news) == len("BCA" + "BABA")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failed_message_tells_again(deliver: Deliver, retry: Callable[[Bot], None], asynchronous: bool) -> None:
    """When a handler fails nothing was seen: the retry gives the event again."""
    bot = Bot(asynchronous)
    deliver(bot, body(**FACTS))
    bot.fails = {"bad": ValueError()}
    deliver(bot, body(id="bad", **FACTS | {"name": "Bea"}))
    assert bot.news == []
    bot.fails = {}
    retry(bot)
    assert bot.news == [({"name"}, {"name": None}, {"name": "Bea"})]
    assert bot.events[-1].attempt == 2
    deliver(bot, body(**FACTS | {"name": "Bea"}))
    assert len(bot.news) == 1


def test_a_retry_does_not_turn_back(deliver: Deliver, retry: Callable[[Bot], None]) -> None:
    """A retry of a message that was received before what was last seen is no news and changes nothing."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    bot.fails = {"bad": ValueError()}
    deliver(bot, body(id="bad", **FACTS | {"name": "Bea"}), seconds=0.001)
    deliver(bot, body(**FACTS | {"name": "Cleo"}), seconds=0.002)
    bot.fails = {}
    retry(bot)
    deliver(bot, body(**FACTS | {"name": "Cleo"}), seconds=0.003)
    assert "bad" in {event.id for event in bot.events}
    assert [new for _, _, new in bot.news] == [{"name": "Cleo"}]


@pytest.mark.parametrize(("raised", "times"), [(Discard("no"), 0), (Reject("no"), 1)])
def test_a_dropped_message_was_seen(deliver: Deliver, raised: Exception, times: int) -> None:
    """What a handler discards was seen; what it rejects was not, so the next message tells."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    bot.fails = {"bad": raised}
    deliver(bot, body(id="bad", **FACTS | {"name": "Bea"}))
    deliver(bot, body(**FACTS | {"name": "Bea"}))
    assert len(bot.news) == times


class Killed(BaseException):
    """Ends a worker in the middle of a batch."""


def _dies(parts: object) -> None:
    raise Killed


def test_a_crash_tells_again_at_most(
    deliver: Deliver, commit: Callable[..., None], take: Callable[..., Any], runner: Callable[..., Any]
) -> None:
    """A worker that dies between a handler's return and the settle leaves its news to be told again, then no more."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    changed = FACTS | {"name": "Bea"}
    commit(body(**changed))
    queue, batch = take("w1", "messages")
    made = runner(bot.handlers)
    made.flow._settling.send = _dies
    with pytest.raises(Killed):
        made.run(queue, batch)
    assert len(bot.news) == 1
    runner(bot.handlers).run(queue, batch)
    assert len(bot.news) == 2
    assert bot.news[0] == bot.news[1]
    deliver(bot, body(**changed))
    assert len(bot.news) == 2


RECORDER = """
from workers import Handlers

handlers = Handlers()

@handlers.profile()
def record(profile):
    with open("told", "a") as out:
        print(profile.contact, *profile.changed, *profile.new.values(), file=out)
"""


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_from_batch_to_batch_in_a_worker_process(
    run_module: Callable[..., subprocess.Popen[str]], commit: Callable[..., None], tmp_path: Path, batch_size: int
) -> None:
    """What one batch leaves behind the next one finds, though the worker begins with it before the first is settled."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    commit(*[body(number="15550001", name=name) for name in "AAAAAABBBBBBCCCCCCAAAAAA"], batch=batch_size)
    environment = dict(os.environ, WA_HANDLERS="recorder:handlers")
    worker = run_module("workers.engine.worker", "--burst", cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    assert worker.wait(60) == 0
    assert (tmp_path / "told").read_text().splitlines() == [f"15550001 name {name}" for name in "BCA"]


def _only(*facts: str, **other: Any) -> dict[str, Any]:
    return {fact: FACTS[fact] for fact in facts} | other


NUMBER_CHANGED = {"type": "user_changed_number", "wa_id": "15550002"}
USER_CHANGED = {"type": "user_changed_user_id", "user_id": "US.2"}
BOTH_CHANGED = USER_CHANGED | {"wa_id": "15550002"}
IDENTITY_CHANGED = {"type": "customer_identity_changed", "identity": "key2"}
NEW_KEY = FACTS | {"identity": "key2"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([_only("number", "name"), _only("number", "user_id"), _only("user_id", name="B")], [{"name"}]),
        ([_only("user_id", "name"), _only("number", "user_id"), _only("number", name="B")], [{"name"}]),
        ([_only("user_id", "name"), _only("user_id", name="B")], [{"name"}]),
        ([FACTS, FACTS | {"user_id": "US.2"}, _only("name", user_id="US.2")], [{"user_id"}]),
        ([FACTS, FACTS | {"number": "15550002"}, _only("name", number="15550002")], [{"number"}]),
        ([FACTS, _only("number", system=NUMBER_CHANGED), _only("name", "user_id", number="15550002")], [{"number"}]),
        ([FACTS, _only("number", system=NUMBER_CHANGED), _only(number="15550002", name="B")], [{"number"}, {"name"}]),
        ([_only("number", system=NUMBER_CHANGED), _only("name", number="15550002")], [{"number"}]),
        ([FACTS, _only("user_id", system=USER_CHANGED), _only("number", "name", user_id="US.2")], [{"user_id"}]),
        ([FACTS, _only("user_id", system=USER_CHANGED), _only(name="B", user_id="US.2")], [{"user_id"}, {"name"}]),
        (
            [FACTS, _only("number", "user_id", system=BOTH_CHANGED), _only("name", number="15550002", user_id="US.2")],
            [{"number", "user_id"}],
        ),
        ([FACTS, _only("number", system=IDENTITY_CHANGED), NEW_KEY], [{"identity"}]),
        (
            [FACTS, _only("number", system=IDENTITY_CHANGED, name="B"), NEW_KEY | {"name": "B"}],
            [{"identity", "name"}],
        ),
        ([FACTS, _only("number", system={"type": "user_changed_number"}), FACTS], [{"number"}]),
        ([_only("name"), _only(name="B")], []),
    ],
    ids=[
        "number-then-both",
        "user-id-then-both",
        "user-id-alone",
        "user-id-without-system",
        "number-without-system",
        "number-with-system",
        "new-number-is-known",
        "system-first",
        "user-id-with-system",
        "new-user-id-is-known",
        "both-with-system",
        "identity-with-system",
        "merged-into-one",
        "number-not-told",
        "nobody",
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_one_contact_by_all_its_names(
    deliver: Deliver, messages: list[dict[str, Any]], told: list[set[str]], together: bool
) -> None:
    """A contact is the same one by number or user id, also after either changed, with a system message or without."""
    bot = Bot()
    bodies = [body(**message) for message in messages]
    if together and len({read(one).order_key for one in bodies}) > 1:
        pytest.skip("two order keys: which goes first is not promised")
    if together:
        deliver(bot, *bodies, partitions=1)
    else:
        for n, one in enumerate(bodies):
            deliver(bot, one, seconds=n)
    assert [changed for changed, _, _ in bot.news] == told


def test_a_system_message_always_tells(deliver: Deliver) -> None:
    """What a system message says is told with old and new, also when it is known already; what it names stays old."""
    bot = Bot()
    deliver(bot, body(**FACTS))
    deliver(bot, body(**FACTS | {"number": "15550002"}))
    deliver(bot, body(number="15550001", system=NUMBER_CHANGED))
    told = ({"number"}, {"number": "15550001"}, {"number": "15550002"})
    assert bot.news == [({"number"}, {"number": None}, {"number": "15550002"}), told]
    deliver(bot, body(number="15550002", user_id="US.1"))
    assert len(bot.news) == 2


def test_business_numbers_are_apart(deliver: Deliver) -> None:
    """The same contact at another business number is another one: seen for the first time, with news of its own."""
    bot = Bot()
    deliver(bot, body("77", **FACTS), body("88", **FACTS | {"name": "Bea"}))
    assert bot.news == []
    deliver(bot, body("77", **FACTS | {"name": "Cleo"}), body("88", **FACTS | {"name": "Bea"}))
    assert [(event.business, event.new) for event in bot.events if isinstance(event, Profile)] == [
        ("77", {"name": "Cleo"})
    ]


@pytest.fixture
def connection(redis: Redis) -> PipelinedConnection:
    """The connection of a worker."""
    return PipelinedConnection(redis)


class Run:
    """The account of a run whose events all end as `outcome` says."""

    def done_before(self, index: int) -> frozenset[bytes]:
        return frozenset()

    def order(self, event: Event) -> str | None:
        return None

    def put_off(self, event: Event) -> None: ...

    def admit(self, event: Event) -> Outcome | None:
        return None

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None: ...


def batch(known: profiles.Profiles, *messages: Message, outcome: Outcome = HANDLED) -> list[set[str]]:
    """What is new in each of these messages, as one batch."""
    asked = known.ask(messages)
    run, told = known.watch(Run(), asked), []
    for message in messages:
        assert run.admit(message) is None
        told.append(set(message.news))
        run.finish(0, message, outcome, 0.0)
    known.forget(asked)
    known.remember()
    return told


def read(raw: bytes, received_ms: int = NOW_MS) -> Message:
    (message,) = parse(raw, received_ms)
    assert isinstance(message, Message)
    return message


def test_generations(connection: PipelinedConnection) -> None:
    """What is seen again in the next generation lives on; what is not is forgotten with its generation."""
    at = [time.time()]
    known = profiles.Profiles(connection, lambda: at[0])
    batch(known, read(body(number="15550001", name="Ada")), read(body(number="15550002", name="Ada")))
    at[0] += profiles.GENERATION_SECONDS
    assert batch(known, read(body(number="15550001", name="Ada"))) == [set()]
    at[0] += profiles.GENERATION_SECONDS
    again = [read(body(number=number, name="Bea")) for number in ("15550001", "15550002")]
    assert batch(known, *again) == [{"name"}, set()]


def test_each_generation_ends(connection: PipelinedConnection, redis: Redis) -> None:
    """Every key is removed by Redis two generations after its own began, however often it is written."""
    now = time.time()
    for name in ("Ada", "Bea"):
        batch(profiles.Profiles(connection, lambda: now), read(body(**FACTS | {"name": name})))
        connection.flush()
    found_keys: Any = redis.keys(f"{keys.WA}profiles:*")
    assert len(found_keys) == 2  # the number's and the user id's
    ends = (now // profiles.GENERATION_SECONDS + 2) * profiles.GENERATION_SECONDS
    assert {redis.expiretime(key) for key in found_keys} == {ends}


def test_a_hash_stays_small(connection: PipelinedConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full hash takes a new contact in place of any other; it stays a list, and the newest is known."""
    monkeypatch.setattr(profiles, "_digest", _one_hash)
    known = profiles.Profiles(connection)
    for n in range(profiles.HASH_FIELDS + 20):
        batch(known, read(body(number=f"1555{n:04}", name="Ada")))
    connection.flush()
    (key,) = redis.keys(f"{keys.WA}profiles:*")
    assert redis.hlen(key) == profiles.HASH_FIELDS
    assert redis.object("encoding", key) == b"listpack"
    assert batch(known, read(body(number=f"1555{n:04}", name="Bea"))) == [{"name"}]
    connection.flush()
    assert redis.hlen(key) == profiles.HASH_FIELDS


def _one_hash(size: int, text: str) -> bytes:
    return b"\0\0" + blake2b(text.encode(), digest_size=size - 2).digest()


def test_a_later_message_stays(redis: Redis) -> None:
    """Two workers that have the same contact under different names: what was received later is what stays."""
    lines = [PipelinedConnection(redis), PipelinedConnection(redis)]
    early, late = (profiles.Profiles(line) for line in lines)
    asked = early.ask([first := read(body(**FACTS))])
    early.watch(Run(), asked).finish(0, first, HANDLED, 0.0)
    batch(late, read(body(**FACTS | {"name": "Bea"}), NOW_MS + 1))
    lines[1].flush()
    early.remember()
    lines[0].flush()
    assert batch(late, read(body(**FACTS | {"name": "Bea"}), NOW_MS + 2)) == [set()]


def test_nothing_readable_in_redis(deliver: Deliver, redis: Redis) -> None:
    """Redis holds no name, number or id of a contact, and no digest long enough to tell one."""
    deliver(Bot(), body(**FACTS))
    found = 0
    for key in redis.scan_iter(f"{keys.WA}profiles:*"):
        for field, value in redis.hgetall(key).items():
            found += 1
            assert (len(field), len(value)) == (8, 21)
            assert not any(said.encode() in key + field + value for said in [*FACTS.values(), "77"])
    assert found == 2


@pytest.mark.parametrize(("kind", "more"), [("message", 0), ("profile", 2)])
def test_it_costs_nothing_without_a_profile_handler(
    kind: str,
    more: int,
    commit: Callable[..., None],
    take: Callable[..., Any],
    runner: Callable[..., Any],
    redis: Redis,
) -> None:
    """A batch is one claim and one settle; with a profile handler there is one look-up and one write beside them."""
    registry = Handlers()
    getattr(registry, kind)()(print)
    commit(*[body(number="15550001", name=str(n)) for n in range(100)])
    taken = take("w1", "messages")
    worker = runner(registry)
    redis.config_resetstat()
    worker.run(*taken)
    stats: Any = redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2 + more
    assert bool(redis.keys(f"{keys.WA}profiles:*")) is (kind == "profile")


facts = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["Ada", "Bea"]),
        "username": st.sampled_from(["ada", "bea"]),
        "number": st.sampled_from(["15550001", "15550002"]),
        "user_id": st.sampled_from(["US.1", "US.2"]),
        "identity": st.sampled_from(["key1", "key2"]),
    },
)
a_message = st.tuples(facts, st.sampled_from(["77", "88"]), st.sampled_from([0, 0, 13, 27, 41]), st.booleans())


class Model:
    """What is remembered, in the clear: by each name of a contact a time, and the facts known then."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}

    def see(self, said: dict[str, str], business: str, at: int, handled: bool) -> set[str]:
        names = [(business, said[name]) for name in ("number", "user_id") if name in said]
        found = [self.known[name] for name in names if name in self.known]
        if not found:
            seen_at, seen = -1, dict[str, str]()
        else:
            seen_at, seen = max(found, key=lambda one: one[0])
        if at < seen_at:
            return set()
        if handled:
            now = (seen_at, seen) if seen | said == seen and found else (at, seen | said)
            self.known |= dict.fromkeys(names, now)
        return {fact for fact in said if seen.get(fact, said[fact]) != said[fact]}


@given(history=st.lists(st.lists(a_message, max_size=4), max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history(
    connection: PipelinedConnection, history: list[list[tuple[dict[str, str], str, int, bool]]]
) -> None:
    """Whatever messages come, in whatever order and batches, news is what the rules say in the clear."""
    connection.redis.flushdb()
    model, clock = Model(), itertools.count(NOW_MS, 10)
    known = profiles.Profiles(connection)
    for messages in history:
        # No two at the same time: of these the last one counts in one batch, and either in two.
        timed = [(next(clock) - late, business, said, handled) for said, business, late, handled in messages]
        found = [read(body(business, **said), at) for at, business, said, _ in timed]
        asked = known.ask(found)
        run = known.watch(Run(), asked)
        for message, (at, business, said, handled) in zip(found, timed, strict=True):
            run.admit(message)
            assert message.news == model.see(said, business, at, handled)
            run.finish(0, message, HANDLED if handled else Outcome("failed"), 0.0)
        known.forget(asked)
        known.remember()
    connection.flush()


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["profile", "name", "username", "wa_id", "user_id", "identity_key_hash", "hash", "type", "user"]
)
thing = st.dictionaries(names, json | st.dictionaries(names, json), max_size=4) | json
system = st.dictionaries(names, json).map(lambda found: {"type": "user_changed_number", **found}) | json


@given(contacts=st.lists(thing, max_size=3) | json, sender=json, user=json, identity=thing, told=system, kind=json)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_raises(
    connection: PipelinedConnection, contacts: Any, sender: Any, user: Any, identity: Any, told: Any, kind: Any
) -> None:
    """Any JSON at the places of the facts is read as a fact or as nothing."""
    known = profiles.Profiles(connection)
    for type_ in ("system", kind):
        raw = {"from": sender, "from_user_id": user, "identity": identity, "type": type_, "system": told}
        message = read(orjson.dumps({"contacts": contacts, "messages": [raw]}))
        batch(known, message)
        news = message.profile
        if news is not None:
            assert news.changed == set(news.old) == set(news.new) <= set(FACTS)
            assert news.subject
        values = Profile(message).facts.values()
        assert all(value is None or (isinstance(value, str) and value) for value in values)
    connection.flush()
