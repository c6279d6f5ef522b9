"""Strict order with real workers, which are killed at each step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from tests.conftest import LONG

HANDLERS = """
import signal, threading
from workers import RetryIn

def kill_later(after):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()

def once(name):
    try:
        os.close(os.open(f"{os.environ['SEEN']}.{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def look(event):
    contact, number = event.id.split("-")
    write("begin", contact, int(number), event.attempt)
    step, _, after = contact.partition("k")[2].partition("t")
    if after and step == f"{number}x{event.attempt}" and once(contact):
        if after == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        kill_later(float(after))
    if number == "3" and event.attempt < 3:
        raise RetryIn(float(os.environ["AGAIN"]))
    write("end", contact, int(number), event.attempt)
"""
PLAIN = """
@handlers.message(strict_order=True)
def handle(event):
    look(event)
"""
ASYNC = PLAIN.replace("def handle", "async def handle")
STEPS = ["2x1", "3x1", "3x2", "3x3", "4x1", "5x1"]
AFTER = ["0", "0.001", "0.02", "0.3"]  # seconds from the step to the kill


def _message(contact: str, number: int) -> bytes:
    return b'{"messages":[{"from":"%s","id":"%s-%d","type":"text"}]}' % (contact.encode(), contact.encode(), number)


@pytest.mark.parametrize("handlers", [PLAIN, ASYNC], ids=["plain", "async"])
def test_the_third_fails_twice(
    handlers: str, workers: Any, commit: Callable[..., None], redis: Redis, wait_for: Callable[..., None]
) -> None:
    """Contact A's order at the handler is 1 2 3 3 3 4 5, whichever of two workers takes what; B is not held up."""
    workers.start(HANDLERS + handlers, "--processes", "2", AGAIN="1")
    for n in (1, 2, 3, 4, 5):  # B's third is no failure
        commit(_message("A", n), _message("B", n + 10))
    wait_for(lambda: redis.zcard(keys.LEDGER) == 0 and len(workers.seen()) >= 20, 60)
    begun = [(at, contact, number) for at, _, what, contact, number, _ in workers.seen() if what == "begin"]
    assert [number for _, contact, number in begun if contact == "A"] == [1, 2, 3, 3, 3, 4, 5]
    assert [number for _, contact, number in begun if contact == "B"] == [11, 12, 13, 14, 15]
    second_try = [at for at, contact, number in begun if contact == "A" and number == 3][1]
    assert max(at for at, contact, _ in begun if contact == "B") < second_try


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("handlers", "first"),
    list(itertools.product([PLAIN, ASYNC], range(len(AFTER)))) if LONG else [(PLAIN, 0), (ASYNC, 2)],
    ids=lambda value: {PLAIN: "plain", ASYNC: "async"}.get(value, value),
)
def test_killed_at_each_step(
    handlers: str, first: int, workers: Any, commit: Callable[..., None], redis: Redis, wait_for: Callable[..., None]
) -> None:
    """A worker is killed while an event fails, when it is tried again and when what waited goes on: each contact's
    messages end in their order, and no message begins before the one before it has ended.

    The steps have the moments of the kill in turn. Once for each kind of handler is a quarter of the combinations;
    LONG_TESTS=1 has all.
    """
    contacts = [f"k{step}t{AFTER[(first + n) % len(AFTER)]}" for n, step in enumerate(STEPS)]
    for n in range(1, 6):
        commit(*[_message(contact, n) for contact in contacts])
    workers.start(HANDLERS + handlers, "--processes", "2", AGAIN="0.2")
    wait_for(lambda: redis.zcard(keys.LEDGER) == 0, 120)
    ended: dict[str, list[int]] = {contact: [] for contact in contacts}
    for _, _, what, contact, number, _ in workers.seen():
        if what == "end":
            ended[contact].append(number)
        else:
            assert set(range(1, number)) <= set(ended[contact]), (contact, number, ended[contact])
    assert {contact: list(dict.fromkeys(numbers)) for contact, numbers in ended.items()} == {
        contact: [1, 2, 3, 4, 5] for contact in contacts
    }
    assert len(list(workers.folder.glob("seen.k*"))) == len(STEPS), "not all were killed"
    assert not redis.exists(keys.HEADS)
