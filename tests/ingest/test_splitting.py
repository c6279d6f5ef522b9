"""A large notification for contacts in several partitions is stored once, and little more."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import orjson
import pytest

from ingest.routing import route
from ingest.splitting import SPLIT_BYTES
from ingest.store.records import digest, pack_into, unpack
from workers.engine.batch_state import BatchState
from workers.events import Event
from workers.events.chat import ChatEvent

PARTITIONS = 16
FILLER = "x" * SPLIT_BYTES


def _told(event: Event) -> tuple[Any, ...]:
    contact = event.contact if isinstance(event, ChatEvent) else None
    names = orjson.dumps(contact, option=orjson.OPT_SORT_KEYS) if contact is not None else None
    who = (event.kind, event.subject, event.id, event.business, event.account, event.order_key, event.notification)
    return (*who, names, orjson.dumps(event.raw, option=orjson.OPT_SORT_KEYS))


def _records(body: bytes) -> dict[str, list[bytes]]:
    records: dict[str, list[bytes]] = {}
    pack_into(records, route(body, PARTITIONS), body, 1)
    return records


def _events(body: bytes) -> Counter[tuple[Any, ...]]:
    """What workers make of the records, whichever partition they lie in."""
    found: Counter[tuple[Any, ...]] = Counter()
    for queue, records in _records(body).items():
        found.update(_told(event) for _, event in BatchState(queue, "b", records, 3, 1e12, "t").events)
    return found


def _messages(*numbers: int) -> list[dict[str, Any]]:
    return [{"from": f"1555{n:04d}", "id": f"m{n}", "type": "text"} for n in numbers]


def _contacts(*numbers: int) -> list[dict[str, Any]]:
    return [{"wa_id": f"1555{n:04d}", "profile": {"name": f"N{n}"}} for n in numbers]


def _value(**more: Any) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "7"}, **more}


def _cloud(*values: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    changes = [{"field": field, "value": value} for field, value in values]
    return {"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": changes}], **more}


TREES: dict[str, Any] = {
    "messages": _cloud(("messages", _value(messages=_messages(*range(40))))),
    "with as many contacts": _cloud(
        ("messages", _value(messages=_messages(*range(40)), contacts=_contacts(*range(40))))
    ),
    "with contacts by place alone": _cloud(
        (
            "messages",
            _value(messages=_messages(*range(40)), contacts=[{"profile": {"name": f"N{n}"}} for n in range(40)]),
        )
    ),
    "with other contacts": _cloud(
        ("messages", _value(messages=_messages(*range(40)), contacts=_contacts(*range(30, 70))[:35]))
    ),
    "with a lone contact": _cloud(("messages", _value(messages=_messages(*range(40)), contacts=_contacts(3)))),
    "with a nameless lone contact": _cloud(
        ("messages", _value(messages=_messages(*range(40)), contacts=[{"profile": {"name": "N"}}]))
    ),
    "beside statuses, errors and what nobody knows": _cloud(
        (
            "messages",
            _value(
                messages=_messages(*range(40)),
                statuses=[{"id": f"s{n}", "status": "read", "recipient_id": "1"} for n in range(5)],
                errors=[{"code": 1}],
                clicks=[{"x": 1}],
                thing={"y": 2},
            ),
        ),
        ("account_update", {"event": "x"}),
    ),
    "in several changes": _cloud(*(("messages", _value(messages=_messages(n))) for n in range(40))),
    "calls and echoes": _cloud(
        ("calls", _value(calls=[{"id": f"c{n}", "from": f"1555{n:04d}", "event": "connect"} for n in range(20)])),
        (
            "smb_message_echoes",
            _value(message_echoes=[{"id": f"e{n}", "to": f"1555{n:04d}", "type": "text"} for n in range(20)]),
        ),
    ),
    "On-Premises": {"messages": _messages(*range(40)), "contacts": _contacts(*range(40)), "relay": {"a": 1}},
    "a list of notifications": [_cloud(("messages", _value(messages=_messages(n)))) for n in range(8)],
}


def _filled(tree: Any) -> bytes:
    first = tree[0] if isinstance(tree, list) else tree
    first["filler"] = FILLER
    return orjson.dumps(tree)


@pytest.mark.parametrize("name", TREES)
def test_every_event_is_handled_once(name: str) -> None:
    """All partitions together get the events of the notification, each with its contact, its ids and its order key."""
    body = _filled(TREES[name])
    whole = Counter(_told(event) for _, event in BatchState("other", "b", _records_whole(body), 3, 1e12, "t").events)
    assert len(_records(body)) > 1
    assert _events(body) == whole


def _records_whole(body: bytes) -> list[bytes]:
    records: dict[str, list[bytes]] = {}
    pack_into(records, route(body, 1), body, 1)
    return [record for of_queue in records.values() for record in of_queue]


@pytest.mark.parametrize("name", TREES)
def test_it_is_stored_once(name: str) -> None:
    """The lowest partition has it as it came; the others have their own part, and no more."""
    body = _filled(TREES[name])
    records = [record for of_queue in _records(body).values() for record in of_queue]
    assert sum(map(len, records)) < 2 * len(body)
    first, *others = [unpack(record) for record in records]
    assert first.body == body
    assert not first.body_digest
    assert {record.body_digest for record in others} == {digest(body)}


def test_a_small_one_is_copied() -> None:
    """What takes little goes to each partition as it came."""
    body = orjson.dumps(TREES["On-Premises"] | {"filler": ""})
    assert {unpack(record).body for of_queue in _records(body).values() for record in of_queue} == {body}


def test_any_mixture() -> None:
    """Elements of all sorts, with contacts or without, in whatever number and order."""
    choose = random.Random(1)
    for _ in range(300):
        values = []
        for _ in range(choose.randint(1, 3)):
            numbers = [choose.randint(0, 30) for _ in range(choose.randint(1, 8))]
            value = _value(messages=_messages(*numbers))
            if choose.random() < 0.7:
                value["contacts"] = _contacts(*[choose.randint(0, 30) for _ in range(choose.randint(0, 8))])
            if choose.random() < 0.3:
                value["statuses"] = [{"id": f"s{n}", "status": "sent"} for n in range(3)]
            values.append((choose.choice(["messages", "calls"]), value))
        body = _filled(_cloud(*values))
        whole = BatchState("other", "b", _records_whole(body), 3, 1e12, "t").events
        assert _events(body) == Counter(_told(event) for _, event in whole), body.replace(FILLER.encode(), b"")
