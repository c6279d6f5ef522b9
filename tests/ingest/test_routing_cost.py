"""What routing a body costs: hostile ones, the largest genuine one, and what stands in a body once."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from ingest.routing import Router, home
from ingest.store.links import Links
from tests.abuse.bodies import HOSTILE


def notification(value: object) -> bytes:
    change = {"value": value, "field": "messages"}
    return json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}).encode()


def quickest(body: bytes) -> float:
    """Seconds that a receiver needs to route a body, others on this machine or not."""
    took = []
    for _ in range(5):
        router = Router(255, 8, Links())
        began = time.perf_counter()
        router(body)
        took.append(time.perf_counter() - began)
    return min(took)


def full(contacts: int) -> bytes:
    """A notification as large as Meta sends any, with a message of each of so many contacts."""
    names = [
        {"profile": {"name": "Ann Example"}, "wa_id": f"1650555{n:05}", "user_id": f"US.{n}"} for n in range(contacts)
    ]
    messages = [
        {"from": f"1650555{n:05}", "from_user_id": f"US.{n}", "id": f"wamid.{n:050}", "text": {"body": "x" * 200}}
        for n in range(contacts)
    ]
    value = {"metadata": {"phone_number_id": "106540000000001"}, "contacts": names, "messages": messages}
    return notification(value)


def test_largest_notification() -> None:
    """Thousands of messages in 3 MB, a real sender's worst, are placed one by one."""
    body = full(7000)
    assert 2_900_000 < len(body) < 3_200_000
    routes = Router(32, None, Links())(body)
    assert [place.queue for place in routes] == [f"messages.{n}" for n in range(32)]
    assert len(routes[0].shares) == 9 * 7000


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_body_takes_long(body: bytes, largest: float) -> None:
    """No body that a receiver accepts takes much longer to route than the largest genuine one."""
    assert quickest(body) < 2.5 * largest


@pytest.fixture(scope="module")
def largest() -> float:
    return quickest(full(7000))


def test_long_name_of_a_business() -> None:
    """What stands once for all messages of a notification costs each of them nothing, however long it is."""

    def took(business: str) -> float:
        messages = [{"from_user_id": f"US.{n}"} for n in range(5000)]
        return quickest(notification({"metadata": {"phone_number_id": business}, "messages": messages}))

    assert took("1" * 2_000_000) < 5 * took("1")


def test_home_is_found_near_the_beginning() -> None:
    """Which Redis statuses belong to is looked for at the beginning of the first one, whatever follows."""
    usual = b'{"statuses":[{"id":"s1","status":"read"}]}'
    assert home("statuses", usual, 1000) == home(
        "statuses", usual.replace(b"}]", b"," + b'"a":1,' * 100_000 + b"}]"), 1000
    )
    far = b'{"statuses":[{' + b'"a":1,' * 10_000 + b'"id":"%b"}]}'
    assert {home("statuses", far % b"s1", 1000), home("statuses", far % b"s2", 1000)} != {home("statuses", usual, 1000)}


def test_nothing_long_is_remembered() -> None:
    """However long the business numbers are that senders invent, a receiver's memory does not grow by them."""
    router = Router(32, 8, Links())
    tracemalloc.start()
    try:
        for n in range(30):
            value = {"metadata": {"phone_number_id": f"{n}" * 500_000}, "messages": [{"from": "1"}]}
            assert router(notification(value))[0].queue.startswith("messages.")
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
