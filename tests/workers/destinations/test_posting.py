"""Posting events to an application."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from redis import Redis

from ingest.state import counters
from ingest.store import keys
from tests.workers.conftest import message_body, status_body
from workers.destinations import answers
from workers.events.parsing import parse


def cloud(*messages: dict[str, Any], statuses: list[dict[str, Any]] | None = None) -> bytes:
    value: dict[str, Any] = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "7"}}
    value |= {"contacts": [{"wa_id": "15550001", "profile": {"name": "Ada"}}], "messages": list(messages)}
    if statuses:
        value["statuses"] = statuses
    change = {"field": "messages", "value": value}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": [change]}]})


def text(id: str, sender: str = "15550001") -> dict[str, Any]:
    return {"from": sender, "id": id, "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}}


def ids(application: Any) -> list[str | None]:
    return [event.id for post in application.posts for event in parse(post.body, 1)]


def test_one_event_a_post(application: Any, destinations: Any, drain: Any, commit: Any, dead: Any) -> None:
    """Each event is one post, in the sender's own form, as if it had been sent alone, and signed as Meta signs."""
    app = application()
    commit(cloud(text("m1"), text("m2", "15550002"), statuses=[{"id": "s1", "status": "read"}]))
    drain(destinations({"name": "crm", "url": app.url, "secret": "s3cret", "headers": {"X-Tenant": "a"}}))
    assert sorted(map(str, ids(app))) == ["m1", "m2", "s1"]
    for post in app.posts:
        signed = hmac.new(b"s3cret", post.body, hashlib.sha256).hexdigest()
        assert post.headers["x-hub-signature-256"] == f"sha256={signed}"
        assert post.headers["content-type"] == "application/json"
        assert post.headers["x-tenant"] == "a"
        assert post.headers["x-wa-attempt"] == "1"
        assert len(post.headers["x-wa-event"]) == len(post.headers["x-wa-notification"]) == 32
        assert json.loads(post.body)["entry"][0]["changes"][0]["value"]["metadata"] == {"phone_number_id": "7"}
    assert len({post.headers["x-wa-event"] for post in app.posts}) == 3
    assert len({post.headers["x-wa-notification"] for post in app.posts}) == 1
    assert dead("messages") == []


def test_what_is_wanted(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """A destination gets the kinds, types and business numbers that it names; others may get the rest."""
    texts, failed, other = application(), application(), application()
    commit(cloud(text("m1"), text("m2") | {"type": "image"}, statuses=[{"id": "s", "status": "failed"}]))
    commit(status_body("s2", "failed"), message_body("m3"))
    drain(
        destinations(
            {"name": "texts", "url": texts.url, "types": ["text"], "business": "7"},
            {"name": "failed", "url": failed.url, "statuses": ["failed"]},
            {"name": "other", "url": other.url, "kinds": ["error", "change"]},
        )
    )
    assert ids(texts) == ["m1"]
    assert sorted(map(str, ids(failed))) == ["s", "s2"]
    assert other.posts == []


def test_answers_are_counted(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis
) -> None:
    """Each answer is counted by sort for its destination, and each post without one."""
    app, gone = application(), application()
    gone.stop()
    codes = {b"m2": 404, b"m3": 500, b"m4": 301}
    app.answer = lambda post: web.Response(status=next((code for id, code in codes.items() if id in post.body), 204))
    commit(*[message_body(f"m{n}", f"1555000{n}") for n in range(1, 6)])
    worker(destinations({"name": "crm", "url": app.url}, {"name": "gone", "url": gone.url}), WA_MAX_ATTEMPTS="1")

    def counted(name: str) -> dict[str, int]:
        return counters.read(redis)[counters.DESTINATION].get(name, {})

    wait_for(lambda: sum(counted("crm").values()) == 5 and counted("gone"), 60)
    assert counted("crm") == {"2xx": 2, "4xx": 1, "5xx": 1, "3xx": 1}
    assert set(counted("gone")) == {"away"}


def test_order(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """One contact's messages come one after another, those of several at the same time."""
    app = application()
    app.slow = 0.005
    commit(*[message_body(f"{contact}.{n}", f"1555000{contact}") for n in range(20) for contact in range(8)])
    drain(destinations({"name": "crm", "url": app.url}))
    for contact in range(8):
        mine = [id for id in ids(app) if str(id).startswith(f"{contact}.")]
        assert mine == [f"{contact}.{n}" for n in range(20)]
    assert 1 < app.most_at_a_time <= 8


def test_refused(application: Any, destinations: Any, drain: Any, commit: Any, dead: Any) -> None:
    """A 4xx makes the event a dead letter at once, with status and answer; a redirect, which nobody follows, too."""
    app = application()
    app.answer = lambda post: (
        web.Response(status=302, headers={"Location": app.url})
        if b"m2" in post.body
        else web.Response(status=404, text="gone")
    )
    commit(message_body("m1"), message_body("m2", "15550002"))
    drain(destinations({"name": "crm", "url": app.url}))
    assert len(app.posts) == 2
    assert sorted(letter["detail"] for letter in dead("messages")) == ["answered 302", "answered 404: gone"]
    assert {letter["reason"] for letter in dead("messages")} == {"rejected"}


def test_tried_again(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis
) -> None:
    """After a 503 the event is posted again when Retry-After says, with the same id and the next attempt."""
    app = application()
    app.answer = lambda post: (
        web.Response(status=503, headers={"Retry-After": "1"}) if len(app.posts) == 1 else web.Response()
    )
    commit(message_body("m1"))
    worker(destinations({"name": "crm", "url": app.url}))
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    first, second = app.posts
    assert second.at - first.at >= 0.99
    assert first.body == second.body
    assert first.headers["x-wa-event"] == second.headers["x-wa-event"]
    assert first.headers["x-wa-notification"] == second.headers["x-wa-notification"]
    assert (first.headers["x-wa-attempt"], second.headers["x-wa-attempt"]) == ("1", "2")


def test_strict_order(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis
) -> None:
    """With strict_order a contact's later messages wait for one that is tried again; those of others do not."""
    app = application()
    seen: list[str] = []

    def answer(post: Any) -> web.Response:
        (event,) = parse(post.body, 1)
        seen.append(str(event.id))  # type: ignore[union-attr]
        fails = seen.count("a2") == 1 and seen[-1] == "a2"
        return web.Response(status=503, headers={"Retry-After": "1"}) if fails else web.Response()

    app.answer = answer
    commit(*[message_body(f"{who}{n}", f"1555000{who}") for n in (1, 2, 3) for who in "ab"])
    worker(destinations({"name": "crm", "url": app.url, "strict_order": True}))
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    assert [id for id in seen if id[0] == "a"] == ["a1", "a2", "a2", "a3"]
    assert [id for id in seen if id[0] == "b"] == ["b1", "b2", "b3"]


def test_away(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis, dead: Any
) -> None:
    """What is for a destination that is away waits without a try, and nothing of another one waits for it."""
    here, away = application(), application()
    away.stop()
    worker(destinations({"name": "here", "url": here.url}, {"name": "away", "url": away.url}), WA_MAX_ATTEMPTS="1")
    commit(*[message_body(f"m{n}", f"1555{n:04d}") for n in range(50)])
    wait_for(lambda: len(here.posts) == 50, 60)
    assert away.posts == []
    assert redis.zcard(keys.LEDGER)
    away.start()
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    assert sorted(map(str, ids(away))) == sorted(f"m{n}" for n in range(50))
    assert {post.headers["x-wa-attempt"] for post in away.posts} == {"1"}
    assert len(here.posts) == 50
    assert dead("messages") == []


@pytest.mark.parametrize(
    ("limit", "contacts"),
    [({"concurrency": 2}, 60), ({"rate": "10/s"}, 5), ({"rate": "10/s", "bulk": 50, "linger": 0.1}, 5)],
)
def test_one_that_is_slow(
    limit: dict[str, object],
    contacts: int,
    application: Any,
    destinations: Any,
    worker: Any,
    commit: Any,
    wait_for: Any,
    redis: Redis,
    dead: Any,
) -> None:
    """However slowly one answers, or may be called, another one gets its events meanwhile, also many of a contact; each
    gets each once.
    """
    slow, quick = application(), application()
    slow.slow = 0.2
    file = destinations({"name": "slow", "url": slow.url, **limit}, {"name": "quick", "url": quick.url})
    commit(*[message_body(f"m{n}", f"1555{n % contacts:04d}") for n in range(60)])
    worker(file, WA_MAX_ATTEMPTS="1")
    wait_for(lambda: len(quick.posts) == 60, 60)
    done = sum(len(parse(one.body, 1)) for one in slow.posts if one.at < quick.posts[-1].at - slow.slow)
    assert done < 30
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    for one in (slow, quick):
        assert sorted(map(str, ids(one))) == sorted(f"m{n}" for n in range(60))
        assert {post.headers.get("x-wa-attempt", "1") for post in one.posts} == {"1"}
    assert dead("messages") == []


def test_posted_to_all_at_once(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """None waits for another's answer to the same event."""
    slow, quick = application(), application()
    slow.slow = 2.0
    commit(message_body("m1"))
    drain(destinations({"name": "slow", "url": slow.url}, {"name": "quick", "url": quick.url}))
    assert abs(quick.posts[0].at - slow.posts[0].at) < 1.0
    assert (len(slow.posts), len(quick.posts)) == (1, 1)


def test_a_connection_that_was_closed(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any
) -> None:
    """A server that was started again between two posts gets the second one at once."""
    app = application()
    worker(destinations({"name": "crm", "url": app.url}))
    commit(message_body("m1"))
    wait_for(lambda: len(app.posts) == 1, 60)
    app.stop()
    app.start()
    commit(message_body("m2"))
    wait_for(lambda: len(app.posts) == 2, 60)
    assert ids(app) == ["m1", "m2"]


def test_too_many(application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis) -> None:
    """A destination that answers 429 is left alone for as long as it says; that uses up no try."""
    app = application()
    app.answer = lambda post: (
        web.Response(status=429, headers={"Retry-After": "1"}) if len(app.posts) == 1 else web.Response()
    )
    commit(message_body("m1"))
    worker(destinations({"name": "crm", "url": app.url}), WA_MAX_ATTEMPTS="1")
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    first, second = app.posts
    assert second.at - first.at >= 0.99
    assert second.headers["x-wa-attempt"] == "1"


@pytest.mark.parametrize(
    ("status", "sort"), [(200, "2xx"), (204, "2xx"), (302, "3xx"), (400, "4xx"), (429, "429"), (599, "5xx")]
)
def test_sorts_of_answers(status: int, sort: str) -> None:
    """429 is a sort of its own; there are no others than those that metrics name."""
    assert answers.sort(status) == sort
    assert sort in counters.ANSWERS


def test_slow(application: Any, destinations: Any, drain: Any, commit: Any, dead: Any) -> None:
    """An answer that does not come in time is a failure of that event."""
    app = application()
    app.slow = 1.0
    commit(message_body("m1"))
    drain(destinations({"name": "crm", "url": app.url, "timeout": "200ms"}), WA_MAX_ATTEMPTS="1")
    (letter,) = dead("messages")
    assert letter["detail"] == "did not answer within 0.2 s"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("status", "told"), [(500, ["answered 500", "failed"]), (404, ["answered 404", "rejected"])])
def test_what_is_logged(
    application: Any, destinations: Any, drain: Any, commit: Any, status: int, told: list[str], full: bool
) -> None:
    """A log line gives the status, no line of our code, and the answer's text only when that is asked for."""
    app = application()
    app.answer = lambda post: web.Response(status=status, text="Ada is unknown")
    commit(message_body("m1"))
    env = {"WA_MAX_ATTEMPTS": "1", "WA_LOG_ERRORS": "full" if full else "place"}
    logged = drain(destinations({"name": "crm", "url": app.url}), **env)
    lines = [json.loads(line) for line in logged.splitlines()]
    failed, letters = [line for line in lines if line["event"] in ("events failed", "dead letters")]
    assert [failed["error"], letters["reason"]] == told
    assert "posting.py" not in logged
    assert "frames" not in failed
    assert ("Ada" in logged) == (full and status == 500)


def test_what_is_logged_of_one_that_is_away(application: Any, destinations: Any, worker: Any, commit: Any) -> None:
    """It says why, with host and port of the address in the file."""
    app = application()
    app.stop()
    commit(message_body("m1"))
    process = worker(destinations({"name": "crm", "url": app.url}))
    line = next(line for line in process.stderr if "always fails" in line)
    assert json.loads(line)["error"] == f"connection refused: {app.host.removeprefix('http://')}"


def test_lists(application: Any, destinations: Any, drain: Any, commit: Any, dead: Any) -> None:
    """With `bulk` a post is a JSON array of notifications; one at fault ends alone, its neighbours are taken."""
    app = application()
    app.answer = lambda post: web.Response(status=422, text="bad s7") if b'"s7"' in post.body else web.Response()
    commit(*[status_body(f"s{n}") for n in range(20)])
    drain(destinations({"name": "crm", "url": app.url, "bulk": 50}), WA_MAX_ATTEMPTS="1")
    first = json.loads(app.posts[0].body)
    assert isinstance(first, list)
    assert len(first) == 20
    (letter,) = dead("statuses")
    assert "s7" in str(letter["body"])
    assert letter["detail"] == "answered 422: bad s7"
    taken = {event.id for post in app.posts if b'"s7"' not in post.body for event in parse(post.body, 1)}
    assert taken == {f"s{n}" for n in range(20)} - {"s7"}


def test_whole_notifications(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """With body = "notification" the events of one notification come in one post, as the sender put them."""
    app = application()
    body = cloud(text("m1"), text("m2"), statuses=[{"id": "s1", "status": "read"}])
    commit(body, message_body("m3"))
    drain(destinations({"name": "crm", "url": app.url, "body": "notification"}))
    one, other = sorted(app.posts, key=lambda post: b'"m3"' in post.body)
    assert [event.id for event in parse(one.body, 1)] == ["m1", "m2", "s1"]
    assert json.loads(other.body) == json.loads(message_body("m3"))


def test_beside_handlers(application: Any, destinations: Any, drain: Any, commit: Any, tmp_path: Path) -> None:
    """Handlers and destinations get each event, and each ends by itself."""
    app = application()
    (tmp_path / "bot.py").write_text(
        "from pathlib import Path\nfrom workers import Handlers\nhandlers = Handlers()\n"
        "@handlers.message()\ndef seen(message):\n    Path(message.id).touch()\n"
    )
    commit(message_body("m1"))
    drain(destinations({"name": "crm", "url": app.url}), WA_HANDLERS="bot:handlers")
    assert ids(app) == ["m1"]
    assert (tmp_path / "m1").exists()


def test_tls(application: Any, destinations: Any, drain: Any, commit: Any, tmp_path: Path) -> None:
    """A certificate of nobody that is known is refused: the event waits, and nothing is sent in the clear."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    app = application()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    app.stop()
    app.tls = context
    app.start()
    url = app.url.replace("http://", "https://")
    commit(message_body("m1"))
    drain(destinations({"name": "crm", "url": url, "ca_file": str(tmp_path / "ca.pem")}))
    assert ids(app) == ["m1"]
