"""From bodies to events, and what becomes of broken ones."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest.garbage import resident
from workers.events import Broken, Call, Change, Error, Event, Message
from workers.events.parsing import parse
from workers.handlers import Handlers

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
QUICK = settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def cloud(*changes: Any) -> bytes:
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [{"id": "42", "changes": changes}]})


def found(body: bytes) -> list[str]:
    """Each result in short: the kind of an event, reason and kind of what is broken."""
    return [f"{item.reason} {item.kind}" if isinstance(item, Broken) else item.kind for item in parse(body, 1)]


CASES = Path(__file__).parents[4] / "shared" / "cases"


@pytest.mark.parametrize(
    "name",
    [
        "by01-lone-surrogate-text",
        "by02-lone-surrogate-name",
        "by05-bom",
        "by06-raw-newline",
        "by07-latin1",
        "by08-list-around",
        "by09-bare-change",
        "by10-json-in-string",
    ],
)
def test_reported_bytes(name: str) -> None:
    """Bodies that people reported to break parsers give all their messages."""
    if not CASES.is_dir():
        pytest.skip("no cases here")
    assert found((CASES / f"{name}.json").read_bytes()) == ["message", "message"]


@pytest.mark.parametrize("name", ["by13-wrong-object-user", "by16-instagram-object"])
def test_reported_platforms(name: str) -> None:
    """What another platform of Meta's sends to the same callback is counted, and no dead letter."""
    if not CASES.is_dir():
        pytest.skip("no cases here")
    assert found((CASES / f"{name}.json").read_bytes()) == ["foreign notification"]


def test_list_around_notifications() -> None:
    """A list gives the events of all notifications in it, and keeps its bytes once, however many are broken."""
    message = orjson.dumps({"messages": [{"from": "1", "id": "m"}]})
    body = b"[" + b",".join([message, b"{}", b'{"object":"page"}', message, b"{}", b'{"object":"page"}']) + b"]"
    items = parse(body, 1)
    foreign = "foreign notification"
    assert found(body) == ["message", "unknown_form notification", foreign, "message", foreign]
    assert all(item.body is body for item in items if isinstance(item, Broken))


def test_every_sample_gives_the_expected_events() -> None:
    """Handlers of messages, statuses, errors and changes get exactly what the list of expectations says of each body.

    What is an event of its own in other fields they get as the change that it came in.
    """
    if not CORPUS.is_dir():
        pytest.skip("no corpus here")
    handlers = Handlers()
    for register in (handlers.message(), handlers.status(), handlers.error(), handlers.change()):
        register(print)
    expected = orjson.loads((CORPUS / "EXPECTED.json").read_bytes())
    counted = {name: called(handlers, (CORPUS / name).read_bytes()) for name in expected}
    assert counted == expected


def called(handlers: Handlers, body: bytes) -> dict[str, int]:
    """How often handlers of each kind are called; what is broken counts by its reason without `_form`."""
    found: Counter[str] = Counter()
    for item in parse(body, 1):
        if isinstance(item, Broken):
            found[item.reason.removesuffix("_form")] += 1
        else:
            found.update(given.kind for _, given in handlers.calls(item))
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'{"messages":[{}]',
        b"[]",
        b"null",
        b"3",
        b'"messages"',
        b"[" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
    ],
)
def test_unreadable(body: bytes) -> None:
    """What is not a JSON object is one broken notification with the whole body."""
    (item,) = parse(body, 5, 2)
    assert isinstance(item, Broken)
    assert (item.reason, item.kind, item.body) == ("unreadable", "notification", body)
    assert (item.received_ms, item.attempt) == (5, 2)
    assert "\n" not in item.detail


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"wadebug_webhook_test":"test"}',
        b'{"contacts":[{"wa_id":"1"}]}',
        b'{"items":[{"id":"1"}]}',
        b'{"messages":[]}',
        b'{"messages":null,"statuses":[]}',
        b'{"entry":"x"}',
        b'{"entry":null,"messages":[{}]}',
        b'{"object":"whatsapp_business_account","entry":[]}',
        b'{"entry":[{}]}',
        b'{"entry":[1,{"changes":{}},{"changes":[]},{"changes":[null]}]}',
        cloud({"field": "messages"}),
        cloud({"field": "messages", "value": []}, {"field": "messages", "value": {"messages": []}}),
    ],
)
def test_unknown_form(body: bytes) -> None:
    """An object that holds no event and no broken element is kept whole, once."""
    (item,) = parse(body, 1)
    assert isinstance(item, Broken)
    assert (item.reason, item.kind, item.body) == ("unknown_form", "notification", body)


def test_order_within_an_object() -> None:
    """Messages come before statuses before errors, whatever the order of the keys."""
    body = b'{"errors":[{}],"statuses":[{},{}],"messages":[{}]}'
    assert found(body) == ["message", "status", "status", "error"]


def test_all_entries_and_changes() -> None:
    """Every change of every entry is read, in order, and one in which nothing is known is one change."""
    fields = ("calls", "history", "smb_message_echoes", "new_next_year", None, 5)
    changes: list[Any] = [{"field": f, "value": {"news": [{}, {}]}} for f in fields]
    entry = {"id": "1", "changes": [{"field": "messages", "value": {"messages": [{}, {}]}}, {"value": {}}]}
    body = orjson.dumps({"entry": [entry, {"id": "2", "changes": changes}]})
    events = parse(body, 1)
    assert [e.kind for e in events] == ["message", "message", "change"] + ["change"] * 6
    assert [e.field for e in events if isinstance(e, Change)] == [None, *fields[:5], "5"]


ARRAYS_BY_NAME = {
    "messages": "message",
    "message_echoes": "message",
    "statuses": "status",
    "calls": "call",
    "user_preferences": "preference",
    "errors": "error",
}


@pytest.mark.parametrize("field", ["messages", "calls", "smb_message_echoes", "standby", "new_next_year", None])
@pytest.mark.parametrize("array", ARRAYS_BY_NAME)
def test_an_array_is_recognised_by_its_name(array: str, field: str | None) -> None:
    """Whatever the field of the change, an array of elements gives an event for each of them."""
    kind = "call" if (array, field) == ("statuses", "calls") else ARRAYS_BY_NAME[array]
    assert found(cloud({"field": field, "value": {array: [{}, {}]}})) == [kind, kind]
    assert found(orjson.dumps({array: [{}, {}]})) == [ARRAYS_BY_NAME[array]] * 2


@pytest.mark.parametrize("field", ["messages", "calls", "new_next_year", None])
def test_what_is_not_known_is_a_change(field: str | None) -> None:
    """Arrays and objects that nobody knows stand beside the events as changes, which say where they were."""
    value = {"messages": [{"id": "m"}], "news": [{"id": "1"}, {"id": "2"}], "state": {"on": True}, "words": ["a"]}
    items = parse(cloud({"field": field, "value": {**value, "level": 3}}), 1)
    changes = [item for item in items if isinstance(item, Change)]
    assert isinstance(items[0], Message)
    assert items[0].envelope["level"] == 3
    if field != "messages":
        assert [one.value for one in changes] == [{k: v for k, v in value.items() if k != "messages"} | {"level": 3}]
        return
    path = "entry[].changes[].value."
    assert [(one.field, one.path, one.value) for one in changes] == [
        ("news", f"{path}news[]", {"id": "1"}),
        ("news", f"{path}news[]", {"id": "2"}),
        ("state", f"{path}state", {"on": True}),
        ("words", f"{path}words[]", ["a"]),
    ]
    for one in changes:
        (again,) = parse(one.body(), 1)
        assert isinstance(again, Change)
        assert (again.path, again.value) == (one.path, one.value)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"user_actions": [{"action_type": "marketing_messages_link_click", "timestamp": "5"}]}, "user_actions"),
        ({"conversation_context": {"summary": "s"}}, "conversation_context"),
        ({"contacts": [{"wa_id": "1"}]}, "contacts"),
    ],
)
def test_what_has_no_message_beside_it_is_no_dead_letter(value: dict[str, Any], field: str) -> None:
    """Clicks, the agent's summary and contacts alone are changes, not bodies of unknown form."""
    (change,) = parse(cloud({"field": "messages", "value": value}), 1)
    assert isinstance(change, Change)
    assert change.field == field


def test_the_agents_summary_is_beside_the_message() -> None:
    """`conversation_context` beside messages is in their envelope, and no event."""
    (event,) = parse(
        cloud({"field": "messages", "value": {"messages": [{}], "conversation_context": {"summary": "s"}}}), 1
    )
    assert isinstance(event, Event)
    assert event.envelope["conversation_context"] == {"summary": "s"}


def test_history_is_a_message_each_and_one_change_a_chunk() -> None:
    """What a chunk of the history says of itself is one change, each of its messages is one of the thread's contact."""
    ours, theirs = {"from": "77", "to": "1", "id": "a"}, {"from": "1", "id": "b", "history_context": {"status": "READ"}}
    threads = [{"id": "1", "messages": [ours, theirs]}, {"id": "US.9", "messages": [{"from": "US.9", "id": "c"}]}]
    value = {"metadata": {"display_phone_number": "77"}, "history": [{"metadata": {"phase": 1}, "threads": threads}]}
    chunk, *messages = parse(cloud({"field": "history", "value": value}), 1)
    assert isinstance(chunk, Change)
    assert chunk.value["history"] == [{"metadata": {"phase": 1}}]
    told = [(m.id, m.direction, m.contact_id) for m in messages if isinstance(m, Message)]
    assert told == [("a", "out", "1"), ("b", "in", "1"), ("c", "in", "US.9")]
    for message in messages:
        assert isinstance(message, Message)
        (again,) = parse(message.body(), 1)
        assert isinstance(again, Message)
        assert again.history
        assert (again.raw, again.contact_id, again.direction) == (message.raw, message.contact_id, message.direction)


@pytest.mark.parametrize("field", [{"field": "messages"}, ["messages"], 5, True, None])
@pytest.mark.parametrize("value", [{"errors": [{"code": 1}], "x": 1}, {"messages": [{}]}, {"standby": {"calls": [{}]}}])
def test_a_field_that_is_no_word(field: Any, value: dict[str, Any]) -> None:
    """Whatever stands where the field's name should, what is in the value is read."""
    (item,) = parse(cloud({"field": field, "value": value}), 1)
    touch(item)
    assert isinstance(item, Event)


@pytest.mark.parametrize("field", ["messages", "anything"])
@pytest.mark.parametrize("deep", [False, True])
def test_an_error_beside_messages_stays_an_error(field: str, deep: bool) -> None:
    """What else stands in the value does not make a change of it when it is written alone."""
    value: dict[str, Any] = {"x": 1, "errors": [{"code": 1}], "messages": [{"id": "m", "from": "1"}]}
    _, error = parse(cloud({"field": field, "value": {"standby": value} if deep else value}), 1)
    assert isinstance(error, Error)
    (again,) = parse(error.body(), 1)
    assert isinstance(again, Error)
    assert (again.raw, again.envelope["x"]) == (error.raw, 1)


@pytest.mark.parametrize("threads", ["x", [1], [{"messages": "x"}], [{"messages": [1]}], [{}]])
def test_a_strange_chunk_of_the_history_is_a_change(threads: Any) -> None:
    """A chunk that is not as Meta describes it is given whole."""
    (change,) = parse(cloud({"field": "history", "value": {"history": [{"threads": threads}]}}), 1)
    assert isinstance(change, Change)
    assert change.value == {"history": [{"threads": threads}]}


def test_errors_beside_a_call_are_the_calls() -> None:
    """Meta writes why a call failed beside it: the call tells it, also in a retry, and there is no other event."""
    value = {"calls": [{"id": "c"}], "errors": [{"code": 138000}]}
    (event,) = parse(cloud({"field": "calls", "value": value}), 1)
    assert isinstance(event, Call)
    for call in (event, *parse(event.body(), 1)):
        assert isinstance(call, Call)
        assert [error.code for error in call.errors] == [138000]
    assert found(cloud({"field": "calls", "value": {"calls": [{}, {}], "errors": [{}]}})) == ["call", "call", "error"]


def test_standby_may_be_one_level_deeper() -> None:
    """Meta writes what comes in standby under a key of its own, an echo with its message one level deeper still."""
    echo = {"id": "e", "message": {"to": "1", "recipient": "US.1", "type": "text", "text": {"body": "shipped"}}}
    inner = {"message_echoes": [echo], "contacts": [{"wa_id": "1", "profile": {"name": "Ann Example"}}]}
    value = {"metadata": {"phone_number_id": "P"}, "standby": {**inner, "news": [{"id": "n"}]}}
    event, rest = parse(cloud({"field": "standby", "value": value}), 1)
    assert isinstance(event, Message)
    for one in (event, *parse(event.body(), 1)):
        assert isinstance(one, Message)
        assert (one.standby, one.direction, one.text, one.type) == (True, "out", "shipped", "text")
        assert (one.contact_id, one.user_id, one.name, one.business) == ("1", "US.1", "Ann Example", "P")
    assert isinstance(rest, Change)
    assert rest.value["standby"]["news"] == [{"id": "n"}]
    (again,) = parse(rest.body(), 1)
    assert isinstance(again, Change)
    assert again.value == rest.value


def test_twice_the_elements_take_twice_the_time() -> None:
    """Whatever is shared by the events of a notification is made once: reading and writing 8,000 is linear."""

    def seconds(count: int) -> float:
        numbers = [str(15550000000 + n) for n in range(count)]
        value = {
            "contacts": [{"wa_id": number, "profile": {"name": number}} for number in numbers],
            "messages": [{"id": f"m{number}", "from": number} for number in numbers],
            "message_echoes": [{"id": f"e{number}", "to": number} for number in numbers],
            "user_preferences": [{"wa_id": number, "value": "stop"} for number in numbers],
        }
        changes = [{"field": "calls", "value": {"calls": [{"from": number}]}} for number in numbers]
        body = cloud({"field": "messages", "value": value}, *changes)
        began = time.process_time()
        for event in parse(body, 1):
            assert isinstance(event, Event)
            assert event.order_key
            assert event.notification
            assert event.body()
            assert event.envelope is not None
        return time.process_time() - began

    seconds(100)
    # The best of three each: a look for cycles, or another process, may come into one of them.
    small, large = (min(seconds(count) for _ in range(3)) for count in (250, 2000))
    assert large < 8 * small * 4


def test_one_broken_element_costs_no_other() -> None:
    """An element that is not an object is broken alone; its neighbours are read."""
    items = parse(b'{"messages":["x",{"id":"1"},null],"statuses":[{},4],"errors":[[]],"k":1}', 1)
    assert [i.kind for i in items] == ["message", "message", "message", "status", "status", "error"]
    broken = [i for i in items if isinstance(i, Broken)]
    assert [(b.body, b.detail) for b in broken] == [
        (b'{"k":1,"messages":["x"]}', "element 0 of messages is a string"),
        (b'{"k":1,"messages":[null]}', "element 2 of messages is null"),
        (b'{"k":1,"statuses":[4]}', "element 1 of statuses is a number"),
        (b'{"k":1,"errors":[[]]}', "element 0 of errors is an array"),
    ]
    assert found(b'{"messages":["x"]}') == ["malformed message"]


@pytest.mark.parametrize("content", ["x", {}, 0, False, "", {"id": "1"}])
def test_an_array_that_is_none(content: Any) -> None:
    """A key that should hold an array but does not is one broken element; null is nothing."""
    assert found(orjson.dumps({"messages": content})) == ["malformed message"]
    assert found(orjson.dumps({"messages": content, "statuses": [{}], "errors": None})) == [
        "malformed message",
        "status",
    ]


def test_broken_structure_beside_events() -> None:
    """A broken entry or change is kept in a notification of its own, beside the events of the others."""
    good = {"id": "1", "changes": [7, {"field": "messages", "value": {}}, {"field": "f", "value": 1}]}
    items = parse(orjson.dumps({"object": "o", "entry": ["x", {"id": "2"}, good]}), 1)
    assert [(i.kind, i.body) for i in items if isinstance(i, Broken)] == [
        ("notification", b'{"object":"o","entry":["x"]}'),
        ("notification", b'{"object":"o","entry":[{"id":"2"}]}'),
        ("change", b'{"object":"o","entry":[{"id":"1","changes":[7]}]}'),
        ("change", b'{"object":"o","entry":[{"id":"1","changes":[{"field":"messages","value":{}}]}]}'),
    ]
    assert isinstance(items[-1], Change)


def test_what_is_malformed_is_malformed_again() -> None:
    """A broken element fed back gives the same broken element."""
    body = cloud({"field": "messages", "value": {"messages": ["x", {}]}})
    broken = parse(body, 1)[0]
    (again,) = parse(broken.body, 1)  # type: ignore[arg-type]
    assert isinstance(again, Broken)
    assert (again.reason, again.kind, again.body) == ("malformed", "message", broken.body)


def test_a_thousand_broken_elements() -> None:
    """A hundred broken elements of one notification are kept one by one, all beyond as the whole body, once."""
    body = b'{"statuses":[' + b'"%b",' % (b"x" * 100) * 999 + b'{"id":"s"}]}'
    *broken, status, whole = parse(body, 0)
    assert [(item.reason, item.kind) for item in broken if isinstance(item, Broken)] == [("malformed", "status")] * 100
    assert status.kind == "status"
    assert isinstance(whole, Broken)
    assert (whole.reason, whole.kind, whole.body) == ("malformed", "notification", body)


def test_broken_elements_add_little() -> None:
    """What is kept of them one by one is no more than a few times their notification, however small they are."""
    body = b'{"messages":[' + b"1," * 900 + b"1]}"
    items = parse(body, 0)
    assert 10 < len(items) < 60
    assert sum(len(item.body) + 120 for item in items if isinstance(item, Broken)) < 4 * len(body)


def test_a_broken_element_takes_little_memory() -> None:
    """What is kept of it takes what it is long: orjson's own bytes take 4 kB, however short."""
    items = [parse(b'{"messages":[1]}', 0) for _ in range(20_000)]
    before = resident()
    items = [parse(b'{"messages":[1]}', 0) for _ in range(20_000)]
    assert resident() - before < 20_000 * 1000
    assert len(items) == 20_000


def test_broken_parts_in_a_large_object_stay_bounded() -> None:
    """Many broken parts that would each repeat a large object are kept as the whole body instead."""
    body = orjson.dumps({"padding": "x" * 200_000, "messages": [0] * 5000 + [{"id": "m"}]})
    items = parse(body, 1)
    assert sum(len(i.body) for i in items if isinstance(i, Broken)) < 2_000_000 + 6 * len(body)
    assert isinstance(items[-2], Message)
    last = items[-1]
    assert isinstance(last, Broken)
    assert (last.reason, last.kind, last.body) == ("malformed", "notification", body)


def test_long_metadata_keeps_the_business_number() -> None:
    """However long the metadata beside many events is, each event alone is of the same business number."""
    metadata = {"phone_number_id": "1", "display_phone_number": "15550", "relay": "x" * 9000}
    value = {"metadata": metadata, "messages": [{"id": f"m{n}", "from": "2"} for n in range(20)]}
    for event in parse(cloud({"field": "messages", "value": value}), 1):
        assert isinstance(event, Message)
        (again,) = parse(event.body(), 1)
        assert isinstance(again, Message)
        assert (again.business, again.display_number) == ("1", "15550")


def test_events_do_not_carry_what_is_large_around_them() -> None:
    """Written alone, as for a retry, an event is kept with what is small around it, and is the same event."""
    junk = "x" * 100_000
    messages = [{"id": str(n), "from": "1", "junk": n} for n in range(500)]
    value = {"messages": messages, "metadata": {"phone_number_id": "P"}, "junk": junk, "more": "small"}
    change = {"field": "messages", "value": value, "junk": junk}
    cloud = {"object": "o", "junk": junk, "entry": [{"id": "E", "junk": junk, "changes": [change]}]}
    for body in (value, cloud):
        events = [event for event in parse(orjson.dumps(body), 1) if isinstance(event, Message)]
        assert sum(len(event.body()) for event in events) < 200_000
        (again,) = parse(events[7].body(), 1)
        assert isinstance(again, Message)
        assert (again.raw, again.business, again.source) == (events[7].raw, "P", events[7].source)
        assert b'"more":"small"' in events[7].body()


def test_a_thousand_statuses() -> None:
    """One body of 1,000 statuses with 1,000 contacts gives 1,000 events, each with its own contact."""
    numbers = [str(15550000000 + n) for n in range(1000)]
    value = {
        "contacts": [{"wa_id": number} for number in numbers],
        "statuses": [{"id": f"s{number}", "recipient_id": number} for number in numbers],
    }
    events = parse(cloud({"field": "messages", "value": value}), 1)
    assert [(e.id, e.contact) for e in events] == [(f"s{n}", {"wa_id": n}) for n in numbers]  # type: ignore[union-attr]


@pytest.mark.parametrize("time", ["1700000000", 1700000000])
def test_numbers_and_strings(time: Any) -> None:
    """A timestamp is understood as a string and as a number."""
    (event,) = parse(orjson.dumps({"messages": [{"timestamp": time, "id": 12}]}), 1)
    assert isinstance(event, Message)
    assert isinstance(event.timestamp, datetime)
    assert event.id == "12"


@pytest.mark.parametrize("time", [True, "", "x", "-1.5", 1.5, "9" * 5000, 2**63, -(2**63), "١٢", [1], {}])
def test_impossible_times(time: Any) -> None:
    """A timestamp that is no time, or out of datetime's range, is None."""
    (event,) = parse(orjson.dumps({"messages": [{"timestamp": time}]}), 1)
    assert isinstance(event, Message)
    assert event.timestamp is None


def touch(item: Event | Broken) -> None:
    """Reads everything that a user can read, and checks that an event survives a retry."""
    repr(item)
    if isinstance(item, Broken):
        assert isinstance(item.body, bytes)
        return
    for name in dir(type(item)):
        if isinstance(getattr(type(item), name), property):
            value = getattr(item, name)
            if isinstance(value, Event):
                touch(value)
            elif dataclasses.is_dataclass(value):
                repr(value)
    (again,) = parse(item.body(), 1)
    assert isinstance(again, Event)
    for name in ("raw", "id", "source", "business"):
        assert getattr(again, name) == getattr(item, name)
    if item.kind != "profile":
        assert again.kind == item.kind
        assert getattr(again, "contact", None) == getattr(item, "contact", None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["system", "image", "messages", "15550001111", "US.1", "1700000000"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)

CONTACT = {"wa_id": "15550001111", "user_id": "US.1", "profile": {"name": "Ann Example"}}
FAULT = {"code": 1, "title": "t", "message": "m", "error_data": {"details": "d"}, "href": "h"}
FULL_MESSAGE = {
    "from": "15550001111",
    "from_user_id": "US.1",
    "id": "wamid.1",
    "timestamp": "1700000000",
    "type": "image",
    "text": {"body": "hi"},
    "button": {"text": "Yes", "payload": "Y"},
    "interactive": {"type": "list_reply", "list_reply": {"id": "1", "title": "One"}},
    "image": {"id": "1", "mime_type": "image/jpeg", "caption": "c", "voice": False},
    "contacts": [{"name": {}}],
    "context": {"id": "wamid.0", "forwarded": True},
    "errors": [FAULT],
}
SYSTEM_MESSAGE = {
    "from": "15550001111",
    "type": "system",
    "identity": {"hash": "h"},
    "system": {"type": "user_changed_number", "wa_id": "15550002222", "customer": "1", "user_id": "US.2"},
}
FULL_STATUS = {
    "id": "wamid.1",
    "status": "sent",
    "recipient_id": "15550001111",
    "recipient_user_id": "US.1",
    "recipient_participant_id": "15550002222",
    "message": {"recipient_id": "+15550001111"},
    "conversation": {"id": "c", "origin": {"type": "o"}, "expiration_timestamp": 1, "pricing": {}},
    "pricing": {"billable": True},
    "errors": [FAULT],
}
ARRAYS: dict[str, Any] = {
    "metadata": {"phone_number_id": "77"},
    "contacts": [CONTACT, {"wa_id": "15550002222"}],
    "messages": [FULL_MESSAGE, SYSTEM_MESSAGE],
    "statuses": [FULL_STATUS],
    "errors": [FAULT],
}
SHAPES: list[dict[str, Any]] = [
    ARRAYS,
    {"entry": [{"id": "1", "changes": [{"field": "messages", "value": ARRAYS}]}]},
    {"entry": [{"id": "1", "time": 1, "changes": [{"field": "calls", "value": {"calls": [{}]}}]}]},
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return ([path] if path else []) + [p for key, value in items for p in places(value, (*path, key))]


SHAPED_PLACES = [(shape, path) for shape in range(len(SHAPES)) for path in places(SHAPES[shape])]


def changed(tree: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON tree with one value replaced; the tree as it is when the path is gone already."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(tree, dict) and key in tree:
        return {**tree, key: changed(tree[key], rest, new)}
    if isinstance(tree, list) and isinstance(key, int) and key < len(tree):
        return [*tree[:key], changed(tree[key], rest, new), *tree[key + 1 :]]
    return tree


@QUICK
@given(st.binary())
@example(b'{"messages":[{}]}')
def test_any_bytes(body: bytes) -> None:
    """Whatever the bytes, parsing gives something and does not raise."""
    items = parse(body, 1)
    assert items
    for item in items:
        touch(item)


@QUICK
@given(st.dictionaries(st.sampled_from(["entry", "messages", "statuses", "errors", "contacts"]), JSON))
def test_any_json(tree: dict[str, Any]) -> None:
    """Whatever the JSON, parsing and reading every property does not raise."""
    items = parse(orjson.dumps(tree), 1)
    assert items
    for item in items:
        touch(item)


@pytest.mark.parametrize("new", [None, True, 7, -1, 1.5, "", "x", [], [None], {}, {"id": []}])
def test_any_value_at_every_place(new: Any) -> None:
    """Whatever stands at one place of a full notification, everything can still be read."""
    for shape, path in SHAPED_PLACES:
        for item in parse(orjson.dumps(changed(SHAPES[shape], path, new)), 1):
            touch(item)


@QUICK
@given(st.sampled_from(range(len(SHAPES))), st.data())
def test_any_values_at_several_places(shape: int, data: st.DataObject) -> None:
    """Whatever stands at several places of a full notification, everything can still be read."""
    tree: Any = SHAPES[shape]
    paths = [path for n, path in SHAPED_PLACES if n == shape]
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=4)):
        tree = changed(tree, path, data.draw(JSON))
    for item in parse(orjson.dumps(tree), 1):
        touch(item)
