"""What is news of a finding, and what receivers keep of it in Redis."""

from __future__ import annotations

import pytest
from redis import Redis

from ingest.state import alerts
from ingest.state.alerts import AGAIN_SECONDS, HOLD_SECONDS, Book
from ingest.state.health import Finding
from ingest.store import keys

WORKERS = Finding("critical", "workers", "No worker is alive")


def told(book: Book, now: float, *found: Finding) -> list[str]:
    """What is posted of these at that time."""
    news = book.look(found, now)
    book.posted(news)
    return [f"+{finding.about}" for finding in news.begun] + [f"-{about}" for about in news.ended]


def test_it_begins_and_ends_once() -> None:
    """A finding is news when it has been there for a while, and when it has been gone for a while; once each."""
    book = Book()
    assert told(book, 0, WORKERS) == []
    assert told(book, HOLD_SECONDS, WORKERS) == ["+workers"]
    assert told(book, HOLD_SECONDS + 10, WORKERS) == []
    assert told(book, 2 * HOLD_SECONDS + 9) == []
    assert told(book, 2 * HOLD_SECONDS + 10) == ["-workers"]
    assert told(book, 4 * HOLD_SECONDS) == []


def test_what_comes_and_goes_is_no_news() -> None:
    """What is gone before it was posted is forgotten; what comes back before it ended goes on."""
    book = Book()
    for now in range(0, 100, 20):
        assert told(book, now, WORKERS) == []
        assert told(book, now + 10) == []
    told(book, 100, WORKERS)
    assert told(book, 100 + HOLD_SECONDS, WORKERS) == ["+workers"]
    for now in range(200, 300, 20):
        assert told(book, now, WORKERS) == []
        assert told(book, now + 10) == []


def test_it_stays_news_until_it_is_posted() -> None:
    """What could not be posted is news at the next look, too."""
    book = Book()
    book.look([WORKERS], 0)
    for now in (HOLD_SECONDS, HOLD_SECONDS + 10):
        assert book.look([WORKERS], now).begun == [WORKERS]
    book.posted(book.look([WORKERS], HOLD_SECONDS + 20))
    for now in (100, 110):
        assert list(book.look([], now).ended) == ["workers"]


def test_more_dead_letters_are_news() -> None:
    """Once an hour at most, and only when there are more than there were since the last post."""
    book = Book()

    def dead(now: float, count: int) -> list[str]:
        return told(book, now, Finding("info", "dead", f"{count} dead letters", count=count))

    assert [dead(0, 1), dead(HOLD_SECONDS, 1), dead(60, 2)] == [[], ["+dead"], []]
    later = HOLD_SECONDS + AGAIN_SECONDS
    assert [dead(later - 1, 2), dead(later, 2), dead(later + 10, 3)] == [[], ["+dead"], []]
    assert dead(3 * later, 1) == []  # some were retried
    assert dead(3 * later + 10, 2) == ["+dead"]


@pytest.mark.parametrize(
    ("finding", "worth"),
    [
        (WORKERS, True),
        (Finding("warning", "waiting.messages", "messages: 5 waiting"), True),
        (Finding("info", "dead", "1 dead letter"), True),
        (Finding("info", "retrying", "1 event waits"), False),
        (Finding("info", "well", "All is well"), False),
    ],
)
def test_what_is_worth_a_post(finding: Finding, worth: bool) -> None:
    """Warnings and worse are, and that there are dead letters; nothing else that is good to know."""
    assert alerts.worth_posting([finding]) == [finding] * worth


def test_one_receiver_at_a_time(redis: Redis) -> None:
    """While one has the turn, no other one gets it; if it was killed, the turn ends by itself."""
    assert alerts.take_turn(redis)
    assert alerts.take_turn(redis) is None
    assert 0 < redis.ttl(keys.ALERTS_TURN) <= 30
    alerts.end_turn(redis)
    assert alerts.take_turn(redis)


def test_the_newest_book_counts(two: list[Redis]) -> None:
    """With several Redis, one that was away has an old book, which is not followed, and gets the new one."""
    old, new = Book(), Book()
    old.look([WORKERS], 0)
    alerts.write(two, old)
    told(new, 0, WORKERS)
    told(new, HOLD_SECONDS, WORKERS)
    alerts.write(two[1:], new)
    assert alerts.read(two) == new
    alerts.write(two, new)
    assert alerts.read(two[:1]) == new
    assert alerts.read([]) == Book()
