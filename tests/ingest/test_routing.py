"""Routing: lanes, partitions and copies, for every body that can come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import routing
from ingest.identity import of_message
from ingest.routing import Route, Router, handles, partition_of, partitions_of_business, route
from ingest.store.links import Links, digest_of
from ingest.store.queues import LANES, lane_of, partition_number, queue_names
from ingest.store.records import Record, pack_into, unpack
from workers.events import Message
from workers.events.chat import ChatEvent, shares_of
from workers.events.parsing import parse


def contact_of(message: dict[str, Any]) -> str | None:
    """Whom a message names: the number, else the user id, else the parent's id."""
    return next(filter(None, of_message(message)), None)


CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
ALICE, BOB, CAROL = "16315551234", "491701234567", "US.13491208655302741918"


def cloud(value: object, field: str = "messages") -> dict[str, Any]:
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "1", "changes": [{"value": value, "field": field}]}],
    }


def wire(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def lane(body: object) -> str:
    """The one lane of a body, compact and pretty-printed."""
    lanes = {lane_of(p.queue) for raw in (wire(body), json.dumps(body, indent=2).encode()) for p in route(raw, 8)}
    assert len(lanes) == 1
    return lanes.pop()


MESSAGE = {"from": ALICE, "id": "m", "timestamp": "1", "type": "text", "text": {"body": "hi"}}
STATUS = {"id": "s", "recipient_id": ALICE, "status": "read", "timestamp": "1"}
ERROR = {"code": 400, "title": "media"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"contacts": [{"wa_id": ALICE}], "messages": [MESSAGE]}, "messages"),
        ({"statuses": [STATUS]}, "statuses"),
        ({"contacts": [{"wa_id": ALICE}], "statuses": [STATUS]}, "statuses"),
        ({"messages": [MESSAGE], "statuses": [STATUS]}, "messages"),
        ({"messages": [], "statuses": [STATUS]}, "statuses"),
        ({"messages": None, "statuses": [STATUS]}, "statuses"),
        ({"messages": [None, 7, "x"], "statuses": [STATUS]}, "statuses"),
        ({"errors": [ERROR]}, "other"),
        ({}, "other"),
        ([], "other"),
        ("messages", "other"),
        ({"wadebug_webhook_test": "test"}, "other"),
        (cloud({"messages": [MESSAGE]}), "messages"),
        (cloud({"calls": [{"from": ALICE, "event": "connect"}]}, "calls"), "messages"),
        (cloud({"statuses": [STATUS]}), "statuses"),
        (cloud({"statuses": [{"type": "call", "recipient_id": ALICE}]}, "calls"), "messages"),
        (cloud({"errors": [ERROR]}), "other"),
        (cloud({"messages": []}), "other"),
        (cloud({"messages": {"from": ALICE}}), "other"),
        (cloud("text"), "other"),
        (cloud({"event": "DISABLED_UPDATE"}, "account_update"), "other"),
        (cloud({"message_echoes": [MESSAGE]}, "smb_message_echoes"), "messages"),
        (cloud({"message_echoes": [MESSAGE]}), "messages"),
        (cloud({"statuses": [STATUS, {"type": "call", "recipient_id": ALICE}]}), "messages"),
        (cloud({"statuses": [STATUS | {"type": "message", "biz_opaque_callback_data": "call"}]}), "statuses"),
        (cloud({"messages": [MESSAGE]}, "standby"), "messages"),
        (cloud({"standby": {"messages": [MESSAGE]}}, "standby"), "messages"),
        (cloud({"standby": {"statuses": [STATUS]}}, "standby"), "statuses"),
        (cloud({"sender": {"phone_number": ALICE}}, "messaging_handovers"), "messages"),
        (cloud({"user_preferences": [{"wa_id": ALICE}]}, "user_preferences"), "messages"),
        (cloud({"messages": [MESSAGE]}, "history"), "other"),
        (cloud({"messages": [MESSAGE]}, "new_next_year"), "messages"),
        ({"to": ALICE, "_vnd": {"v1": {"direction": "outbound"}}}, "messages"),
        ({"object": "whatsapp_business_account", "entry": []}, "other"),
        ({"entry": {"changes": [{"field": "messages", "value": {"messages": [MESSAGE]}}]}}, "other"),
        ({"entry": [None, {"changes": None}, {"changes": [None]}]}, "other"),
        ({"entry": [], "messages": [MESSAGE]}, "other"),
    ],
)
def test_lane(body: object, expected: str) -> None:
    """What a contact says or does, and what it is told, is urgent in either body form; statuses have their lane, the
    rest goes to `other`."""
    assert lane(body) == expected


def test_history_is_not_urgent() -> None:
    """A history of thousands of messages does not stand in the way of those that wait for an answer."""
    history = {"history": [{"metadata": {"phase": 0}, "threads": [{"id": ALICE, "messages": [MESSAGE] * 50}]}]}
    assert lane(cloud(history, "history")) == "other"


@pytest.mark.parametrize("text", ['"messages":[', '{"messages":[{"from":"1"}]}', "\\", '\\"messages":[{"from":"2"}'])
def test_text_that_looks_like_a_message(text: str) -> None:
    """JSON inside a text changes no lane, and no partition."""
    status = STATUS | {"biz_opaque_callback_data": text}
    assert lane({"statuses": [status]}) == "statuses"
    assert lane({"errors": [ERROR | {"details": text}]}) == "other"
    message = MESSAGE | {"text": {"body": text}}
    assert route(wire({"messages": [message]}), 8) == route(wire({"messages": [MESSAGE]}), 8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"hello",
        b"\xff\xfe\xfd",
        b'{"messages":[',
        b'{"messages":[{"from":"1"}]} trailing',
        b"[" * 100_000,
        b'{"messages":[' * 50_000,
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    """Bytes that are no JSON go to `other`, whole."""
    assert route(body, 8) == (Route("other"),)


PLAIN = wire(cloud({"messages": [MESSAGE]}))


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN.replace(b"hi", b"\n"),
        PLAIN.replace(b"hi", b"caf\xe9"),
        PLAIN.replace(b"hi", b"\\ud83d"),
        b"[" + PLAIN + b"]",
        wire(PLAIN.decode()),
        wire({"field": "messages", "value": {"messages": [MESSAGE]}}),
    ],
)
def test_what_is_nearly_a_notification(body: bytes) -> None:
    """What strict JSON or a relay's wrapping would hide goes where its contact's other messages go."""
    assert route(body, 8) == route(PLAIN, 8)


def test_several_notifications_in_a_list() -> None:
    """Each contact in a list of notifications has its partition."""
    bodies = [wire({"messages": [MESSAGE | {"from": sender}]}) for sender in (ALICE, BOB)]
    together = {place.queue for place in route(b"[" + b",".join(bodies) + b"]", 8)}
    assert together == {place.queue for body in bodies for place in route(body, 8)}
    assert len(together) == 2


@pytest.mark.parametrize(
    ("element", "contact"),
    [
        ({"from": ALICE}, ALICE),
        ({"from": "+" + ALICE}, ALICE),
        ({"from": int(ALICE)}, ALICE),
        ({"from_user_id": CAROL}, CAROL),
        ({"from_user_id": CAROL, "from": ALICE}, ALICE),
        ({"from_bsuid": CAROL}, CAROL),
        ({"from_user_id": CAROL, "from": ""}, CAROL),
        ({"from": CAROL}, CAROL),
        ({"type": "system", "system": {"previous_user_id": CAROL, "user_id": "US.2"}}, CAROL),
        ({"from_user_id": "US.2", "system": {"previous_user_id": CAROL, "user_id": "US.2"}}, CAROL),
        ({"from": ALICE, "system": {"previous_user_id": CAROL}}, ALICE),
        ({"system": {"previous_user_id": 7}}, None),
        ({"from_user_id": "", "from": ALICE}, ALICE),
        ({"from_user_id": None, "from": ALICE}, ALICE),
        ({"from_user_id": 7, "from": ALICE}, ALICE),
        ({"from": ""}, None),
        ({"from": "+"}, None),
        ({"from": None}, None),
        ({"from": True}, None),
        ({"from": [ALICE]}, None),
        ({}, None),
        ({"context": {"from": BOB}}, None),
        ({"context": {"from": BOB, "id": "x"}, "from": ALICE}, ALICE),
    ],
)
def test_contact(element: dict[str, Any], contact: str | None) -> None:
    """A contact is named by number, as text or integer, plus sign or not, else by user id, wherever that stands."""
    assert contact_of(element) == contact


@pytest.mark.parametrize("body", [{"messages": [{}]}, cloud({"messages": [{}]})], ids=["onprem", "cloud"])
def test_same_contact_same_partition(body: dict[str, Any]) -> None:
    """However a contact's message is written, it goes to the same partition; a quoted message plays no part."""
    routes = set()
    for message in (
        {"from": ALICE, "context": {"from": BOB}},
        {"context": {"from": BOB}, "from": "+" + ALICE},
        {"text": {"body": "x"}, "from": int(ALICE)},
    ):
        (body["messages"] if "messages" in body else body["entry"][0]["changes"][0]["value"]["messages"])[0] = message
        routes |= set(route(wire(body), 200))
    assert routes == {Route(f"messages.{crc32(ALICE.encode()) % 200}")}
    assert partition_of(BOB, 200) != partition_of(ALICE, 200)


def test_partition_never_changes() -> None:
    """The partition of a contact is the same in every process and version: order depends on it."""
    assert [partition_of(c, 8) for c in (ALICE, BOB, CAROL, None, "")] == [1, 4, 5, 0, 0]


def test_no_contact_is_partition_zero() -> None:
    """A message that names no contact is still urgent, and goes to partition 0."""
    assert route(wire({"messages": [{"type": "system"}]}), 8) == (Route("messages.0"),)


def queues(body: object, partitions: int = 8, per_business: int | None = None) -> list[str]:
    return [found.queue for found in route(wire(body), partitions, per_business)]


def test_several_contacts() -> None:
    """Messages of contacts in different partitions: one copy for each partition, with the same shares."""
    body = {"messages": [{"from": c} for c in (ALICE, BOB, CAROL, ALICE)]}
    assert queues(body) == ["messages.1", "messages.4", "messages.5"]
    assert len({found.shares for found in route(wire(body), 8)}) == 1
    assert route(wire(body), 1) == (Route("messages.0"),)


def test_several_contacts_over_entries() -> None:
    """Entries and changes of one body count together, calls among them."""
    body = cloud({"messages": [{"from": ALICE}]})
    body["entry"] += cloud({"calls": [{"from": BOB}]}, "calls")["entry"]
    body["entry"][0]["changes"] += cloud({"messages": [{"from_user_id": CAROL}]})["entry"][0]["changes"]
    assert queues(body) == ["messages.1", "messages.4", "messages.5"]


def of(business: object, *contacts: str) -> dict[str, Any]:
    """Messages of these contacts to one business number."""
    return cloud({"metadata": {"phone_number_id": business}, "messages": [{"from": c} for c in contacts]})


NUMBERS = [str(n) for n in range(200)]


@pytest.mark.parametrize("business", ["106540000000001", 106540000000001])
def test_a_business_uses_its_partitions(business: object) -> None:
    """A business number uses as many partitions as it may, whoever writes to it; by default all of them."""
    assert len(queues(of(business, *NUMBERS), 32, 4)) == 4
    assert queues(of(business, *NUMBERS), 32) == queues(of(business, *NUMBERS), 32, 32) == queue_names("messages", 32)
    assert len(queues({"messages": [{"from": c} for c in NUMBERS]}, 32, 4)) == 32


def test_businesses_differ() -> None:
    """Hardly any two business numbers have all of their partitions in common, and together they use all."""
    chosen = {tuple(sorted(partitions_of_business(str(n), 32, 4))) for n in range(100)}
    assert len(chosen) >= 99
    assert {n for some in chosen for n in some} == set(range(32))


def test_partitions_of_a_business_never_change() -> None:
    """They are the same in every process and version, and a partition more replaces at most one of them."""
    assert partitions_of_business("106540000000001", 32, 4) == (27, 6, 29, 26)
    for n in range(100):
        assert len(set(partitions_of_business(str(n), 32, 4)) - set(partitions_of_business(str(n), 33, 4))) <= 1


@pytest.mark.parametrize(("written", "read"), [((32, None), (8, 2)), ((8, 2), (32, None)), ((16, 3), (16, 1))])
def test_each_message_is_handled_once(written: Any, read: Any) -> None:
    """Of the copies of a notification one handles each message, and one all else, whatever the settings are by then."""
    body = of("1", *NUMBERS[:50])
    body["entry"] += of("2", *NUMBERS[:50])["entry"]
    records: dict[str, list[bytes]] = {}
    pack_into(records, route(wire(body), *written), wire(body), 1)
    found = {partition_number(queue): unpack(record) for queue, (record,) in records.items()}
    for business in ("1", "2"):
        for contact in NUMBERS[:50]:
            (partition,) = (n for n, r in found.items() if handles(n, r, business, {}, contact))
            assert f"messages.{partition}" in queues(of(business, contact), *written)
    for unknown in ((None, None), ({}, "somebody else"), ({}, None)):
        assert [n for n, record in found.items() if handles(n, record, "1", *unknown)] == [min(found, key=int)]


def test_records_of_format_1() -> None:
    """What a receiver of format 1 wrote is handled where that receiver sent it: by the number of partitions alone."""
    both = {"from": ALICE, "from_user_id": CAROL}
    record = Record(1, 1, 8, False, wire({"messages": [{"from": ALICE}, {"from": BOB}, both]}))
    assert [n for n in range(8) if handles(n, record, None, both, None)] == [5]
    assert [n for n in range(8) if handles(n, record, None, {"from": ALICE}, None)] == [1]
    assert [n for n in range(8) if handles(n, record, None, {"from": BOB}, None)] == [4]
    assert [n for n in range(8) if handles(n, record, None, None, None)] == [1]


def test_a_whole_notification() -> None:
    """A record without shares is handled where it lies."""
    assert handles(3, Record(1, 1, 0, False, b"{}"), "1", {}, ALICE)
    assert handles(None, Record(1, 1, 0, False, b"{}"), None, None, None)


def test_contacts_of_one_partition() -> None:
    """Messages of contacts in one partition need no copy."""
    other = next(str(n) for n in range(10**6) if partition_of(str(n), 8) == partition_of(ALICE, 8))
    assert route(wire({"messages": [{"from": ALICE}, {"from": other}]}), 8) == (Route("messages.1"),)


def test_queue_names() -> None:
    """The messages lane has a queue per partition, the others one each; a queue's name tells its lane."""
    assert queue_names("messages", 3) == ["messages.0", "messages.1", "messages.2"]
    assert queue_names("statuses", 3) == ["statuses"]
    assert [lane_of(q) for q in ("messages.2", "statuses", "other")] == list(LANES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "entry",
                    "changes",
                    "value",
                    "field",
                    "messages",
                    "calls",
                    "statuses",
                    "from",
                    "from_user_id",
                    "user_id",
                    "wa_id",
                    "contacts",
                    "system",
                    "x",
                ]
            ),
            inner | st.sampled_from(["messages", "calls", ALICE, "+" + BOB]),
            max_size=4,
        )
    ),
    max_leaves=20,
)
CONTACTS = st.fixed_dictionaries(
    {}, optional={"from": st.text() | st.integers(-(2**60), 2**60), "from_user_id": JSON, "type": JSON}
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: orjson.dumps(value)),
    st.lists(CONTACTS, max_size=5).map(lambda m: orjson.dumps(cloud({"messages": m}))),
    st.lists(CONTACTS, max_size=5).map(lambda m: orjson.dumps({"messages": m})),
    st.tuples(st.lists(CONTACTS, min_size=1, max_size=3), st.integers(0, 40)).map(
        lambda t: orjson.dumps({"messages": t[0]})[: -t[1] or None]
    ),
)


@given(BODIES, st.integers(1, 255), st.none() | st.integers(1, 255))
def test_any_body_has_a_place(body: bytes, partitions: int, per_business: int | None) -> None:
    """Whatever the bytes are, routing answers with queues that exist, and with shares only when there are several."""
    routes = route(body, partitions, per_business)
    names = [p.queue for p in routes]
    assert names
    assert len(set(names)) == len(names)
    assert set(names) <= {name for each in LANES for name in queue_names(each, partitions)}
    assert all(bool(p.shares) == (len(routes) > 1) for p in routes)


@given(st.lists(CONTACTS, min_size=1, max_size=8), st.integers(1, 255))
def test_every_message_has_its_partition(messages: list[dict[str, Any]], partitions: int) -> None:
    """Each message's partition is among the queues of its body, and no other partition is."""
    expected = {partition_of(contact_of(message), partitions) for message in messages}
    assert {p.queue for p in route(orjson.dumps({"messages": messages}), partitions)} == {
        f"messages.{n}" for n in expected
    }


@pytest.mark.skipif(not CORPUS.exists(), reason="the sample notifications are not here")
def test_samples() -> None:
    """Each sample goes to the lane that the events in it ask for."""
    expected = json.loads((CORPUS / "EXPECTED.json").read_text())
    found, right = {}, {}
    for name, kinds in expected.items():
        raw = (CORPUS / name).read_bytes()
        found[name] = {lane_of(p.queue) for p in route(raw, 8)}
        urgent = any(f'"field": "{f}"' in raw.decode() for f in ("calls", "smb_message_echoes", "user_preferences"))
        if "message" in kinds or urgent:
            right[name] = {"messages"}
        else:
            right[name] = {"statuses"} if '"statuses"' in raw.decode() else {"other"}
    assert len(expected) > 100
    assert found == right


CASES = Path(__file__).parents[3] / "shared" / "cases"


def keys_of(router: Router, body: object) -> list[tuple[str, str | None]]:
    """Queue and order key of each message of a body, as a worker finds them."""
    records: dict[str, list[bytes]] = {}
    pack_into(records, router(wire(body)), wire(body), 1)
    found = []
    for queue, (packed,) in records.items():
        record = unpack(packed)
        for event in parse(record.body, 1, shares=record.shares):
            assert isinstance(event, Message)
            if handles(partition_number(queue), record, event.business, event.raw, event.contact_id):
                found.append((queue, event.order_key))
    return found


def said(number: str | None = None, user: str | None = None, *contacts: dict[str, str]) -> dict[str, Any]:
    """A message that names its contact so, to one business number."""
    message = {key: value for key, value in (("from", number), ("from_user_id", user)) if value}
    value: dict[str, Any] = {"metadata": {"phone_number_id": "1"}, "messages": [message]}
    return cloud(value | ({"contacts": list(contacts)} if contacts else {}))


NAMED: list[Any] = [
    *(
        {"messages": [{side: name}]}
        for side in ("from", "from_user_id", "from_parent_user_id")
        for name in (ALICE, CAROL)
    ),
    {"messages": [{"type": "system", "system": {"previous_user_id": CAROL}}]},
    {"messages": [{"to": ALICE, "_vnd": {"v1": {"direction": "outbound"}}}]},
    {"message_echoes": [{"from": "77", "to": ALICE}]},
    {"message_echoes": [{"from": ALICE, "to": "77"}]},
    {"message_echoes": [{"message": {"recipient": CAROL}}]},
    {"standby": {"messages": [{"from": ALICE}], "message_echoes": [{"message": {"to": BOB}}]}},
    {"calls": [{"from": ALICE, "to": "77"}, {"from": "77", "to": BOB}, {"from_user_id": CAROL}]},
    {"calls": [{"to": BOB, "direction": "BUSINESS_INITIATED"}], "statuses": [{"type": "call", "recipient_id": ALICE}]},
    {"user_preferences": [{"wa_id": ALICE}, {"user_id": CAROL}]},
    {"sender": {"phone_number": ALICE}},
]


@pytest.mark.parametrize("value", NAMED)
@pytest.mark.parametrize("partitions", [1, 8, 255])
def test_receiver_and_worker_read_the_same_contact(value: Any, partitions: int) -> None:
    """Each event of a contact is handled where the receiver sent that contact, once, whoever named it and how."""
    field = "messaging_handovers" if "sender" in value else "calls" if "calls" in value else "messages"
    body = wire(cloud({"metadata": {"display_phone_number": "77", "phone_number_id": "1"}, **value}, field))
    records: dict[str, list[bytes]] = {}
    pack_into(records, Router(partitions)(body), body, 1)
    handled = []
    for queue, (packed,) in records.items():
        record = unpack(packed)
        for event in parse(body, 1, shares=record.shares):
            assert isinstance(event, ChatEvent)
            if handles(partition_number(queue), record, event.business, event.raw, event.contact_id):
                handled.append(event.raw)
                assert queue == f"messages.{partition_of(event.contact_id, partitions)}"
    assert sorted(map(str, handled)) == sorted(str(e.raw) for e in parse(body, 1))  # type: ignore[union-attr]


BOTH = [
    said(ALICE, CAROL),
    said(ALICE, None, {"wa_id": ALICE, "user_id": CAROL}),
    said("5511987654321", CAROL, {"wa_id": "551187654321", "user_id": CAROL}),
    said("5511987654321", None, {"wa_id": "551187654321", "user_id": CAROL}),
]


@pytest.mark.parametrize("linking", BOTH)
@pytest.mark.parametrize(
    "alone", [said(None, CAROL), said(CAROL), said(None, CAROL, {"user_id": CAROL}), said(CAROL, CAROL)]
)
def test_a_linked_user_id_is_the_number(linking: Any, alone: Any) -> None:
    """After a notification with both, one with the user id alone has the partition and order key of the number."""
    router = Router(32, 4)
    number = linking["entry"][0]["changes"][0]["value"]["messages"][0]["from"]
    assert keys_of(router, linking) == keys_of(router, said(number))
    assert keys_of(router, alone) == keys_of(router, said(number))


def test_a_contact_beside_the_message_links() -> None:
    """A message with the user id alone goes by the number that `contacts` gives for it."""
    beside = said(None, CAROL, {"wa_id": ALICE, "user_id": CAROL})
    assert keys_of(Router(32), beside) == keys_of(Router(32), said(ALICE))


def test_links_are_of_one_business() -> None:
    """A user id is linked for the business number that it was seen with, and with nobody else's number."""
    router = Router(255)
    keys_of(router, said(ALICE, CAROL))
    other = said(None, CAROL)
    other["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "2"
    assert keys_of(router, other) == keys_of(Router(255), other) != keys_of(router, said(None, CAROL))
    keys_of(router, said(None, "US.1", {"wa_id": BOB, "user_id": "US.2"}))
    assert keys_of(router, said(None, "US.1")) != keys_of(router, said(BOB))


def test_a_new_user_id_is_the_same_contact() -> None:
    """A system message about a new user id belongs to the contact, and so does what comes with the new id."""
    router = Router(32)
    keys_of(router, said(ALICE, CAROL))
    news = {"type": "user_changed_user_id", "user_id": "US.2", "previous_user_id": CAROL}
    announced = cloud({"metadata": {"phone_number_id": "1"}, "messages": [{"type": "system", "system": news}]})
    assert keys_of(router, announced) == keys_of(router, said(None, "US.2")) == keys_of(router, said(ALICE))


def test_a_new_number_takes_the_user_id() -> None:
    """The link seen last counts."""
    router = Router(255)
    for number in (ALICE, BOB, ALICE):
        keys_of(router, said(number, CAROL))
        assert keys_of(router, said(None, CAROL)) == keys_of(router, said(number))


def test_unknown_user_ids_are_told() -> None:
    """A route names the user ids that no link is known of, as digests, and only those."""
    router = Router(32)
    assert router(wire(said(None, CAROL)))[0].unknown == (digest_of("1", CAROL),)
    assert router(wire(said(ALICE, CAROL)))[0].unknown == ()
    assert router(wire(said(None, CAROL)))[0].unknown == ()


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
@pytest.mark.parametrize(
    "name",
    [
        "live-T3-one-contact-two-keys",
        "live-T3b-both-then-user-id",
        "live-T8-number-field-holds-user-id",
        "id08-order-phone-then-both",
    ],
)
def test_cases_of_one_contact(name: str) -> None:
    """Messages of one person that the field has sent with number, both, or user id have one order key."""
    case = json.loads((CASES / f"{name}.json").read_text())
    router = Router(32)
    assert len({found for body in case.get("bodies", [case]) for found in keys_of(router, body)}) == 1


def test_a_retry_keeps_the_contact() -> None:
    """The record of a retry says what a linked user id belongs to, in few bytes; of a number it says nothing."""
    router = Router(32)
    keys_of(router, said(ALICE, CAROL))
    (place,) = router(wire(said(None, CAROL)))
    (event,) = parse(wire(said(None, CAROL)), 1, shares=place.shares)
    (again,) = parse(event.body(), 1, 2, shares=shares_of(event))  # type: ignore[arg-type]
    assert again.order_key == event.order_key  # type: ignore[union-attr]
    assert len(shares_of(event)) == 9  # type: ignore[arg-type]
    (event,) = parse(wire(said(ALICE, CAROL)), 1)
    assert shares_of(event) == b""  # type: ignore[arg-type]


@given(BODIES, BODIES)
def test_links_never_raise(body: bytes, other: bytes) -> None:
    """Whatever the bytes are, a router that learns from them goes on, and sends the same body to one place."""
    router = Router(8, 2)
    router(body)
    assert [place.queue for place in router(other)] == [place.queue for place in router(other)]


ALONE = {"contacts": [{"wa_id": ALICE}], "messages": [MESSAGE]}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"messages": [MESSAGE, {**MESSAGE, "from": BOB}]},
    {"messages": [MESSAGE, MESSAGE]},
    {"messages": []},
    {"messages": [None]},
    {"messages": {"0": MESSAGE}},
    {"messages": [{**MESSAGE, "from": f"+{ALICE}"}]},
    {"messages": [{**MESSAGE, "from": CAROL}]},
    {"messages": [{**MESSAGE, "from": int(ALICE)}]},
    {"messages": [{**MESSAGE, "from": ""}]},
    {"messages": [{"id": "m"}]},
    *({"messages": [{**MESSAGE, key: CAROL}]} for key in ("from_user_id", "from_bsuid", "from_parent_user_id")),
    {"messages": [{**MESSAGE, "type": "system", "system": {"type": "user_changed_number", "wa_id": BOB}}]},
    {"messages": [{**MESSAGE, "to": BOB, "_vnd": {"v1": {"direction": "outbound"}}}]},
    {"contacts": [{"wa_id": ALICE, "user_id": CAROL}]},
    {"statuses": [STATUS]},
    {"calls": [{"from": BOB}]},
    {"message_echoes": [{"from": "1", "to": BOB}]},
    {"user_preferences": [{"wa_id": BOB}]},
    {"standby": {"messages": [{**MESSAGE, "from": BOB}]}},
    {"metadata": {"phone_number_id": "106"}},
    {"errors": [ERROR]},
]


@pytest.mark.parametrize("partitions", [1, 8, 32])
@pytest.mark.parametrize("per_business", [None, 2])
def test_the_short_way_places_as_the_long_one(
    partitions: int, per_business: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain message is placed without looking for all else, and where all else is looked for it would be, too."""
    values = [{**ALONE, **variant} for variant in VARIANTS]
    bodies = [wire(body) for value in values for body in (value, cloud(value), cloud(value, "history"))]
    bodies += [wire({**cloud(ALONE), "entry": entry}) for entry in ({}, [], [None], [{}], cloud(ALONE)["entry"] * 2)]
    bodies += [wire([ALONE, ALONE]), *(path.read_bytes() for path in sorted(CORPUS.rglob("*.json")))]

    def routes() -> list[Any]:
        links = Links()
        return [route(body, partitions, per_business, links) for body in bodies]

    found = routes()
    monkeypatch.setattr(routing, "_lone_number", lambda body: None)
    assert found == routes()
