"""`POST /actions/…`: who may act, and what is done."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest
from redis import Redis

from ingest.admin import doorkeeper
from ingest.state import controls, dead_groups
from ingest.store import keys
from tests.conftest import wait_for as until

Start = Callable[..., Any]
TOKEN = "correct-horse-battery"
OLD = "the-token-until-then"
NAMES = ("check", "pause", "resume", "retry", "drop", "tail")
GROUP = {"lane": "messages", "reason": "failed", "kind": "message", "first": "0-0", "last": "9999999999999-0"}


class Done(NamedTuple):
    """An answer: its status, its headers, its lines as JSON."""

    status: int
    headers: dict[str, str]
    lines: list[Any]


def act(receiver: Any, name: str, content: Any = None, token: str = TOKEN, **headers: str | None) -> Done:
    """Ask for an action, as the page does; a header that is None is left out."""
    connection = HTTPConnection("127.0.0.1", receiver.admin_port, timeout=30)
    body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
    usual: dict[str, str | None] = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
    sent = {name.replace("_", "-"): value for name, value in (usual | headers).items() if value is not None}
    try:
        connection.request("POST", f"/actions/{name}", body, sent)
        answer = connection.getresponse()
        lines = [json.loads(line) for line in answer.read().splitlines()]
        return Done(answer.status, {key.lower(): value for key, value in answer.getheaders()}, lines)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def shared_receiver(valkey: Any, start_module_receiver: Start) -> Any:
    """One receiver for the module; two tokens, as while one replaces the other."""
    return start_module_receiver(f"unix://{valkey.unix_socket_path}", WA_ADMIN_TOKEN=f"{OLD}, {TOKEN}")


@pytest.fixture
def receiver(shared_receiver: Any, redis: Redis) -> Any:
    """That one, its Redis empty."""
    return shared_receiver


@pytest.fixture
def letters(redis: Redis) -> Callable[..., None]:
    """Write dead letters."""

    def write(count: int, reason: str = "failed", lane: str = "messages", body: bytes = b"{}") -> None:
        with redis.pipeline() as pipe:
            for _ in range(count):
                fields: Any = {"reason": reason, "kind": "message", "attempt": 8, "received": 1, "body": body}
                pipe.xadd(keys.dead_key(lane), fields | {"queue": "messages.0", "detail": ""})
            pipe.execute()

    return write


def group(redis: Redis, reason: str = "failed") -> dict[str, str]:
    """A group as the page shows it, and so names it."""
    (found,) = [group for group in dead_groups.Counter(redis).read().groups if group.reason == reason]
    return {name: getattr(found, name) for name in GROUP}


def test_without_a_token_the_page_is_read_only(redis_url: str, start_receiver: Start) -> None:
    """When WA_ADMIN_TOKEN is not set, nobody may act, and it is said what would let them."""
    receiver = start_receiver(redis_url)
    for name in NAMES:
        answer = act(receiver, name, GROUP)
        assert answer.status == 403
        assert "WA_ADMIN_TOKEN" in answer.lines[0]["error"]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((name, None) for name in NAMES),
        *((name, f"Bearer {TOKEN[:-1]}") for name in NAMES),
        *(("drop", given) for given in ("", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {OLD}, {TOKEN}")),
    ],
)
def test_a_wrong_token_is_refused(receiver: Any, redis: Redis, name: str, given: str | None) -> None:
    """Anything but `Bearer` and a token is 401, whatever else is sent; nothing is done."""
    answer = act(receiver, name, GROUP, Authorization=given, Cookie=f"token={TOKEN}")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert not redis.exists(keys.CONTROLS)
    assert TOKEN not in json.dumps(answer.lines)


def test_wrong_tokens_are_slow_and_seen(receiver: Any) -> None:
    """Many wrong tokens at once are answered one by one, counted and logged in bounded lines without their value; some
    are too many. A right token and scrapes do not wait meanwhile.
    """
    guesses = doorkeeper.WAITING + 5
    before, logged = refused(receiver), receiver.log().count('"wrong admin token"')
    with ThreadPoolExecutor(guesses) as pool:
        began = time.monotonic()
        wrong = [pool.submit(act, receiver, "check", token=f"guess-number-{n:06}") for n in range(guesses)]
        until(lambda: refused(receiver) >= before + guesses, what="every guess")
        assert act(receiver, "check").status == 200
        assert receiver.admin("/healthz").status == 200
        assert not all(one.done() for one in wrong)
        found = Counter(one.result().status for one in wrong)
    assert time.monotonic() - began >= doorkeeper.WAITING * doorkeeper.WRONG_TOKEN_SECONDS
    assert found == {401: doorkeeper.WAITING, 429: 5}
    assert 1 <= receiver.log().count('"wrong admin token"') - logged <= 3
    assert "guess-number" not in receiver.log()


def refused(receiver: Any, reason: str = "token") -> float:
    """How often the admin listener refused that."""
    text = receiver.admin("/metrics").body.decode()
    return float(re.findall(rf'wa_admin_refused_total{{reason="{reason}"}} (\S+)', text)[0])


@pytest.mark.parametrize("token", [TOKEN, OLD])
def test_each_token_may_act(receiver: Any, token: str) -> None:
    """While one replaces the other, both are right."""
    assert act(receiver, "check", token=token).status == 200
    assert act(receiver, "check", Authorization=f"bearer  {token}").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": None}, 415),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_what_its_own_page_would_send(receiver: Any, headers: dict[str, str | None], status: int) -> None:
    """Forms, and other sites' pages, are refused though they know the token."""
    assert act(receiver, "check", **headers).status == status


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pause", b""),
        ("pause", b"null"),
        ("pause", b"\xff"),
        ("pause", {}),
        ("pause", {"lane": "all"}),
        ("pause", {"lane": ["messages"]}),
        ("resume", {"lane": "messages", "rate": 5}),
        ("retry", {"lane": "messages"}),
        ("retry", GROUP | {"first": "-"}),
        ("drop", GROUP | {"last": "+"}),
        ("drop", GROUP | {"last": "1" * 20 + "-0"}),
        ("drop", GROUP | {"reason": None}),
        ("drop", GROUP | {"reason": "x" * 1001}),
        ("check", {"x": 1}),
    ],
)
def test_nonsense_is_refused(receiver: Any, redis: Redis, letters: Any, name: str, content: Any) -> None:
    """What is not exactly an action is 400 with the reason; nothing is done."""
    letters(1)
    answer = act(receiver, name, content)
    assert answer.status == 400
    assert answer.lines[0]["error"]
    assert redis.xlen(keys.dead_key("messages")) == 1
    assert controls.read(redis) == controls.Controls({}, {})


def test_bodies_are_bounded(receiver: Any) -> None:
    """A body that is long, or does not say how long it is, is refused before it is read."""
    assert act(receiver, "pause", b" " * 5000).status == 413
    sender = receiver.sender(receiver.admin_port)
    token = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    sender.head("POST /actions/pause", Transfer_Encoding="chunked", **token)
    assert sender.answer().status == 411
    assert receiver.sender(receiver.admin_port).ask("GET /actions/pause").status == 405


def test_pause_and_resume(receiver: Any, redis: Redis) -> None:
    """A lane is paused and goes on; each is one line in the log, without the token."""
    assert act(receiver, "pause", {"lane": "statuses"}).status == 200
    assert set(controls.read(redis).paused) == {"statuses"}
    assert act(receiver, "resume", {"lane": "statuses"}).status == 200
    assert controls.read(redis).paused == {}
    lines = [json.loads(line) for line in receiver.log().splitlines() if "on the page" in line]
    assert [(line["event"], line["lane"]) for line in lines[-2:]] == [
        ("lane paused on the page", "statuses"),
        ("lane resumed on the page", "statuses"),
    ]
    assert TOKEN not in receiver.log()


@pytest.mark.parametrize(("name", "waiting"), [("retry", 250), ("drop", 0)])
def test_dead_letters_as_they_were_shown(receiver: Any, redis: Redis, letters: Any, name: str, waiting: int) -> None:
    """The letters of a group are retried or dropped, with progress; other groups and later letters stay."""
    letters(3, "rejected")
    letters(250)
    shown = group(redis)
    letters(2)
    answer = act(receiver, name, shown)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    done = [line["done"] for line in answer.lines]
    assert done == sorted(done)
    assert len(done) > 3
    assert answer.lines[-1] == {"done": 250, "ended": True}
    assert redis.xlen(keys.dead_key("messages")) == 5
    owed: Any = redis.zrange(keys.LEDGER, 0, -1)
    assert sum(redis.llen(keys.batch_key(m.decode().partition("|")[2])) for m in owed) == waiting  # type: ignore[misc]
    (line,) = [json.loads(line) for line in receiver.log().splitlines() if '"count": 250' in line][-1:]
    assert (line["lane"], line["reason"], line["kind"]) == ("messages", "failed", "message")
    assert act(receiver, name, shown).lines == [{"done": 0, "ended": True}]  # twice does no harm


def test_dead_letters_of_one_handler(receiver: Any, redis: Redis) -> None:
    """A row that names a handler stands for its letters alone; an older page, which names none, for those of all."""
    for handler in ("crm", "shop", "crm, shop"):
        fields: Any = {"reason": "failed", "kind": "message", "body": b"{}", "queue": "messages.0", "handler": handler}
        redis.xadd(keys.dead_key("messages"), fields)
    groups = {one.handler: one for one in dead_groups.Counter(redis).read().groups}
    first, last = groups["crm"].first, groups["crm, shop"].last
    whole = {"lane": "messages", "reason": "failed", "kind": "message", "first": first, "last": last}
    assert act(receiver, "drop", whole | {"handler": "crm"}).lines[-1]["done"] == 1
    assert act(receiver, "drop", whole).lines[-1]["done"] == 2


def test_two_at_once(receiver: Any, redis: Redis, letters: Any) -> None:
    """Two who retry the same do so once, whether the second is refused or finds nothing left."""
    letters(1500)
    shown = group(redis)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: act(receiver, "retry", shown), range(2)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert sum(answer.lines[-1].get("done", 0) for answer in answers) == 1500
    owed: Any = redis.zrange(keys.LEDGER, 0, -1)
    assert sum(redis.llen(keys.batch_key(m.decode().partition("|")[2])) for m in owed) == 1500  # type: ignore[misc]


def test_who_asked_may_leave(receiver: Any, redis: Redis, letters: Any, wait_for: Callable[..., None]) -> None:
    """What was begun is carried out, though the one who asked has gone."""
    letters(2000)
    shown = json.dumps(group(redis)).encode()
    sender = receiver.sender(receiver.admin_port)
    token = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    sender.head("POST /actions/drop", Content_Length=len(shown), body=shown, **token)
    sender.socket.close()
    sender.close()
    wait_for(lambda: redis.xlen(keys.dead_key("messages")) == 0, what="an end of the dropping")


def test_redis_is_away(own_valkey: Callable[..., Any], start_receiver: Start) -> None:
    """Without Redis an action is 503 with the reason."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_ADMIN_TOKEN=TOKEN)
    server.stop()
    for name, content in (("pause", {"lane": "messages"}), ("drop", GROUP)):
        answer = act(receiver, name, content)
        assert answer.status == 503
        assert "Redis is not reachable" in answer.lines[0]["error"]


def test_a_stop_ends_between_portions(redis: Redis, redis_url: str, start_receiver: Start, letters: Any) -> None:
    """A receiver that stops does not go through all letters first; what is left is still there."""
    letters(60, body=bytes(300_000))  # portions of three or so
    receiver = start_receiver(redis_url, WA_ADMIN_TOKEN=TOKEN)
    shown = group(redis)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(act, receiver, "drop", shown)
        while redis.xlen(keys.dead_key("messages")) == 60:
            pass
        assert receiver.stop() == 0
        last = answer.result().lines[-1]
    assert redis.xlen(keys.dead_key("messages")) == 60 - last["done"]
    assert last.get("ended") or "the rest is still there" in last["error"]
    assert "Traceback" not in receiver.log()
