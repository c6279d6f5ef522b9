"""Links of user ids to contacts: what a process holds, and for how long."""

from __future__ import annotations

import pytest

from ingest.store import links as links_room
from ingest.store.links import GENERATION_SECONDS, MOST_SENT, Links, digest_of


class Clock:
    """The time in generations."""

    def __init__(self) -> None:
        self.generation = 100.0

    def __call__(self) -> float:
        return self.generation * GENERATION_SECONDS


def test_new_links_are_sent_once() -> None:
    """A link goes to each Redis with a call until one with it succeeds, and again only when it changes."""
    links = Links()
    outboxes = [links.outbox(), links.outbox()]
    links.learn("1", "US.1", 7)
    for outbox in outboxes:
        assert outbox.next() == outbox.next() == digest_of("1", "US.1") + b"\0\0\0\7"
    outboxes[0].sent(outboxes[0].next())
    links.learn("1", "US.1", 7)
    assert [outbox.next() for outbox in outboxes] == [b"", digest_of("1", "US.1") + b"\0\0\0\7"]
    for key in (8, 7):
        links.learn("1", "US.1", key)
        assert (links.find(digest_of("1", "US.1")), outboxes[0].next()[-1]) == (key, key)


def test_a_change_under_way_is_sent_next() -> None:
    """A link that changes while the old one is on its way is not forgotten when that arrives."""
    links = Links()
    outbox = links.outbox()
    links.learn("1", "US.1", 7)
    sent = outbox.next()
    links.learn("1", "US.1", 8)
    outbox.sent(sent)
    assert outbox.next()[-1] == 8


def test_what_redis_tells_is_not_sent_back() -> None:
    """A link that Redis has told is known, and is not sent when a notification names both, too."""
    links = Links()
    outbox = links.outbox()
    links.told(digest_of("1", "US.1") + b"\0\0\0\7")
    assert links.find(digest_of("1", "US.1")) == 7
    links.learn("1", "US.1", 7)
    assert outbox.next() == b""


@pytest.mark.parametrize("seen", ["find", "learn"])
def test_used_links_stay(seen: str) -> None:
    """A link that is used in each generation stays, and is sent once in each; an unused one goes after two."""
    clock = Clock()
    links = Links(clock)
    outbox = links.outbox()
    links.learn("1", "US.1", 7)
    links.learn("1", "US.2", 8)
    for _ in range(3):
        outbox.sent(outbox.next())
        clock.generation += 1
        links.learn("1", "other", 9)
        if seen == "find":
            assert links.find(digest_of("1", "US.1")) == 7
        else:
            links.learn("1", "US.1", 7)
        assert digest_of("1", "US.1") in outbox.next()
    assert links.find(digest_of("1", "US.2")) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many contacts there are, and while Redis takes nothing, a process holds a bounded number of links."""
    monkeypatch.setattr(links_room, "MOST_HERE", 2000)
    links = Links()
    outbox = links.outbox()
    for n in range(10_000):
        links.learn("1", f"US.{n}", n)
        links.told(digest_of("2", f"US.{n}") + b"\0\0\0\7")
    assert len(links._young) + len(links._old) <= 4000
    assert max(len(links._known), len(outbox.links)) <= 2000
    assert len(outbox.next()) == 12 * MOST_SENT
    assert links.find(digest_of("1", "US.9999")) == 9999
