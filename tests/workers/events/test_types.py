"""What handlers read from events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from workers.events import Broken, Change, Error, Event, Message, Profile, Status
from workers.events.parsing import parse
from workers.events.values import Fault

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
RECEIVED = 1_700_000_000_123
USER = "US.1234567890"


def onprem(**arrays: Any) -> bytes:
    return orjson.dumps(arrays)


def cloud(field: str = "messages", **value: Any) -> bytes:
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "77"}, **value}
    entry = {"id": "42", "time": 1700000000, "changes": [{"field": field, "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


def one(body: bytes, attempt: int = 1) -> Any:
    events = parse(body, RECEIVED, attempt)
    assert len(events) == 1
    return events[0]


def message(**raw: Any) -> Message:
    found = one(onprem(messages=[{"from": "15550001111", "id": "m1", "timestamp": "1700000000", **raw}]))
    assert isinstance(found, Message)
    return found


def status(**raw: Any) -> Status:
    found = one(cloud(statuses=[{"id": "s1", "status": "sent", **raw}]))
    assert isinstance(found, Status)
    return found


def profile(raw: dict[str, Any], **system: Any) -> tuple[str | None, set[str], Any, Any]:
    """Contact, changed, old and new of the profile event of a system message."""
    found = message(type="system", system=system, **raw).profile
    assert isinstance(found, Profile)
    return found.contact, set(found.changed), found.old, found.new


def test_common_properties_of_an_onprem_message() -> None:
    """Every event tells its kind, id, times, attempt, source and element."""
    event = one(onprem(messages=[{"id": "m1", "timestamp": "1700000000", "later": 1}]), attempt=3)
    assert (event.kind, event.id, event.attempt, event.source) == ("message", "m1", 3, "onprem")
    assert event.timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert event.received_at == datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)
    assert event.timestamp.utcoffset() == event.received_at.utcoffset() == timedelta(0)
    assert event.business is None
    assert event.raw == {"id": "m1", "timestamp": "1700000000", "later": 1}


def test_the_cloud_form_names_the_business_number() -> None:
    """`business` is metadata.phone_number_id, for every kind of event."""
    body = cloud(messages=[{}], statuses=[{}], errors=[{}])
    events = [*parse(body, RECEIVED), one(cloud("calls", calls=[]))]
    assert [(e.kind, e.business, e.source) for e in events if isinstance(e, Event)] == [
        ("message", "77", "cloud"),
        ("status", "77", "cloud"),
        ("error", "77", "cloud"),
        ("change", "77", "cloud"),
    ]


@pytest.mark.parametrize(
    "event",
    [
        *parse(b'{"messages":[{}],"statuses":[{}],"errors":[{}]}', RECEIVED),
        *parse(b'{"calls":[{}],"user_preferences":[{}]}', RECEIVED),
        *parse(b'{"entry":[{"changes":[{},{"field":"messaging_handovers","value":{}}]}]}', RECEIVED),
    ],
)
def test_what_is_left_out_is_none(event: Event) -> None:
    """An empty element has no property but None, an empty tuple, or what the notification itself tells."""
    class_ = type(event)
    told = {"received_at", "received_ms", "attempt", "source", "notification", "body_digest", "envelope", "headers"}
    told |= {"direction", "standby", "history", "path"}
    names = {n for n in dir(class_) if isinstance(getattr(class_, n), property) and n[0] != "_"}
    told |= {"field"} if event.kind == "handover" else set()
    none = {name: () if name in ("errors", "cards", "order_items") else None for name in names - told}
    assert {n: getattr(event, n) for n in names - told} == none


@pytest.mark.parametrize(
    ("raw", "sender"),
    [
        ({"from": "15550001111"}, "15550001111"),
        ({"from": "+15550001111"}, "15550001111"),
        ({"from": 15550001111}, "15550001111"),
        ({"from": "15550001111", "from_user_id": USER}, "15550001111"),
        ({"from_user_id": USER}, USER),
        ({"from": "", "from_user_id": USER}, USER),
        ({"from": True}, None),
        ({"from": ["15550001111"]}, None),
    ],
)
def test_sender(raw: dict[str, Any], sender: str | None) -> None:
    """The sender is the number without a plus, else the business-scoped user id."""
    assert one(onprem(messages=[raw])).sender == sender


@pytest.mark.parametrize(
    ("raw", "text", "payload"),
    [
        ({"type": "text", "text": {"body": "hi"}}, "hi", None),
        ({"type": "button", "button": {"text": "Yes", "payload": "Y"}}, "Yes", "Y"),
        ({"type": "button", "button": {"text": "Yes", "payload": None}}, "Yes", None),
        ({"interactive": {"type": "button_reply", "button_reply": {"id": "b", "title": "B"}}}, "B", "b"),
        ({"interactive": {"type": "list_reply", "list_reply": {"id": 7, "title": "L"}}}, "L", "7"),
        ({"interactive": {"type": "nfm_reply", "nfm_reply": {"name": "flow", "body": "Sent"}}}, None, None),
        ({"type": "image", "image": {"id": "1", "caption": "look"}}, "look", None),
        ({"type": "location", "location": {"name": "here"}}, None, None),
        ({"type": "text", "text": "hi"}, None, None),
    ],
)
def test_text_and_payload(raw: dict[str, Any], text: str | None, payload: str | None) -> None:
    """`text` is what the contact wrote or chose, `payload` what the business attached to the choice."""
    found = message(**raw)
    assert (found.text, found.payload) == (text, payload)


def test_media() -> None:
    """Media of every type is read with its own key; an On-Premises voice message counts as voice."""
    content = {"id": 5, "mime_type": "audio/ogg; codecs=opus", "sha256": "ab", "file": "/m/5", "link": "L"}
    voice = message(type="voice", voice=content).media
    assert voice is not None
    assert (voice.id, voice.mime_type, voice.sha256) == ("5", "audio/ogg; codecs=opus", "ab")
    assert (voice.file, voice.link, voice.url, voice.voice) == ("/m/5", "L", None, True)
    sticker = message(type="sticker", sticker={"animated": True, "url": "u"}).media
    assert sticker is not None
    assert (sticker.animated, sticker.url, sticker.voice) == (True, "u", None)
    document = message(type="document", document={"caption": "c", "filename": "f.pdf"}).media
    assert document is not None
    assert (document.caption, document.filename) == ("c", "f.pdf")
    assert message(type="text", text={"body": "hi"}, image={"id": "1"}).media is None
    assert message(type="image").media is None


def test_structured_content_is_given_as_sent() -> None:
    """Location, order, reaction and the like are the sender's own objects."""
    names = ("location", "order", "reaction", "system", "referral", "interactive", "context")
    for name in names:
        found = message(**{name: {"id": "1"}})
        assert getattr(found, name) is found.raw[name]
        assert getattr(message(**{name: "x"}), name) is None
    assert message(contacts=[{"name": {}}, 5]).contacts_shared == ({"name": {}},)
    assert message(group_id="g").group_id == "g"


def test_context() -> None:
    """An answer names the message it answers; a forwarded message is known as such."""
    assert message(context={"id": "m0", "from": "1"}).reply_to == "m0"
    assert message(context={"forwarded": True}).forwarded is True
    assert message(context={"frequently_forwarded": True}).forwarded is True
    assert message(context={"forwarded": False}).forwarded is False
    assert message().forwarded is None


ANN = {"wa_id": "15550001111", "profile": {"name": "Ann Example"}}
BEN = {"wa_id": "15550002222", "user_id": USER, "profile": {"name": "Ben Example"}}


@pytest.mark.parametrize(
    ("raw", "contacts", "name"),
    [
        ({"from": "15550001111"}, [BEN, ANN], "Ann Example"),
        ({"from": "+15550002222"}, [ANN, BEN], "Ben Example"),
        ({"from_user_id": USER}, [ANN, BEN], "Ben Example"),
        ({"from": "15550009999"}, [ANN], None),
        ({"from": "15550009999"}, [BEN], None),
        ({"from": "15550009999", "from_user_id": USER}, [BEN], "Ben Example"),
        ({"from_user_id": USER}, [ANN], "Ann Example"),
        ({}, [ANN], "Ann Example"),
        ({"from": "15550001111", "system": {}}, [ANN], "Ann Example"),
        ({"system": {}}, [ANN], None),
        ({"from": "550095550101"}, [ANN, {**ANN, "wa_id": "5500995550101"}], "Ann Example"),
        ({"from": "5215550001111"}, [{**ANN, "wa_id": "525550001111"}], "Ann Example"),
        ({"from": "5495550001111"}, [{**ANN, "wa_id": "545550001111"}], "Ann Example"),
        ({"from": "15550009999"}, [ANN, BEN], None),
        ({"from_user_id": "US.999"}, [BEN], None),
        ({"from": "15550001111"}, [5, ANN, {**ANN, "profile": {}}], "Ann Example"),
        ({"from": "15550001111"}, "x", None),
        ({}, [{"profile": {}}], None),
    ],
)
def test_contact_of_a_message(raw: dict[str, Any], contacts: Any, name: str | None) -> None:
    """The contact is found by number, by user id, or because it is alone and nobody else for sure."""
    assert one(onprem(contacts=contacts, messages=[raw])).name == name


def test_contact_by_its_place() -> None:
    """As many contacts as elements: each has the one at its place, unless one of them says otherwise."""
    named = [{"user_id": f"US.{n}", "profile": {"name": str(n)}} for n in range(3)]
    arrays = {
        "messages": [{"from": "1"}, {"from_user_id": "US.1"}, {"from": "3"}],
        "message_echoes": [{"to": "1"}, {"to_user_id": "US.0"}, {"to": "3"}],
        "calls": [{"from": "1"}],
        "user_preferences": [{"wa_id": str(n)} for n in range(3)],
    }
    events = parse(onprem(contacts=named, **arrays), RECEIVED)
    names = [event.name for event in events]  # type: ignore[union-attr]
    assert names == ["0", "1", "2", None, "0", None, None, "0", "1", "2"]


@pytest.mark.parametrize(
    "raw",
    [
        {"recipient_id": "15550002222"},
        {"message": {"recipient_id": "+15550002222"}},
        {"recipient_user_id": USER},
        {"recipient_id": "group", "recipient_participant_id": "15550002222"},
        {"recipient_id": "group", "recipient_participant_user_id": USER},
    ],
)
def test_contact_of_a_status(raw: dict[str, Any]) -> None:
    """A status finds its recipient's or its participant's contact among others."""
    assert one(cloud(contacts=[ANN, BEN], statuses=[raw])).contact == BEN


def test_recipient_and_participant() -> None:
    """A status names its recipient and the group's participant in every known spelling."""
    assert status(recipient_id="1555").recipient == "1555"
    assert status(message={"recipient_id": "+1555"}).recipient == "1555"
    assert status(recipient_user_id=USER).recipient == USER
    assert status(recipient_participant_id="1555").participant == "1555"
    assert status(participant_recipient_id="1555").participant == "1555"
    assert status(recipient_participant_user_id=USER).participant == USER
    assert status(type="payment", biz_opaque_callback_data="o").opaque == "o"


@pytest.mark.parametrize("seconds", [1649955000, "1649955000"])
def test_conversation_and_pricing(seconds: int | str) -> None:
    """An expiry may be a number or a string, and pricing may be inside the conversation."""
    origin = {"type": "service"}
    found = status(conversation={"id": "c", "origin": origin, "expiration_timestamp": seconds})
    assert found.conversation is not None
    assert (found.conversation.id, found.conversation.origin) == ("c", "service")
    assert found.conversation.expires_at == datetime.fromtimestamp(1649955000, UTC)
    assert found.pricing is None
    price = {"billable": "false", "pricing_model": "PMP", "category": "utility", "type": "regular"}
    for raw in ({"pricing": price}, {"conversation": {"pricing": price}}):
        pricing = status(**raw).pricing
        assert pricing is not None
        assert (pricing.billable, pricing.model, pricing.category, pricing.type) == (
            False,
            "PMP",
            "utility",
            "regular",
        )


def test_errors_of_both_senders() -> None:
    """Details are found beside the code (On-Premises) and in error_data (Cloud)."""
    old = {"code": "470", "title": "T", "details": "D", "href": "/h"}
    new = {"code": 131051, "message": "M", "error_data": {"details": "D"}}
    expected = (Fault(470, "T", "D", "/h", None), Fault(131051, None, "D", None, "M"))
    assert status(errors=[old, "x", new]).errors == message(errors=[old, new]).errors == expected
    events = [e for e in parse(onprem(errors=[old, new]), RECEIVED) if isinstance(e, Error)]
    assert [Fault(e.code, e.title, e.details, e.href, e.message) for e in events] == list(expected)


def test_change() -> None:
    """A change tells its field, value, account and time; a change without a field has none."""
    change = one(cloud("account_update", event="X"))
    assert isinstance(change, Change)
    assert (change.kind, change.field, change.account, change.id) == ("change", "account_update", "42", None)
    assert change.value["event"] == "X"
    assert change.timestamp == change.time == datetime.fromtimestamp(1700000000, UTC)
    assert one(b'{"entry":[{"changes":[{"value":7}]}]}').field is None


@pytest.mark.parametrize(
    ("system", "contact", "old", "new"),
    [
        (
            {"type": "user_changed_number", "new_wa_id": "15550003333"},
            "15550001111",
            "15550001111",
            "15550003333",
        ),
        (
            {"type": "user_changed_number", "wa_id": "15550003333"},
            "15550001111",
            "15550001111",
            "15550003333",
        ),
        ({"type": "customer_changed_number", "customer": "1555", "wa_id": "1556"}, "1555", "1555", "1556"),
        ({"type": "user_changed_number", "wa_id": "15550001111"}, "15550001111", None, "15550001111"),
        ({"type": "user_changed_number"}, "15550001111", "15550001111", None),
    ],
)
def test_profile_of_a_changed_number(system: dict[str, Any], contact: str, old: str | None, new: str | None) -> None:
    """Every webhook version's number change gives the old and the new number, None if it is not told."""
    assert profile({}, **system) == (contact, {"number"}, {"number": old}, {"number": new})


def test_profile_of_a_changed_user_id() -> None:
    """A changed user id names the number, too, if that is said to have changed."""
    raw = {"from_user_id": USER}
    change = {"type": "user_changed_user_id", "user_id": "US.2"}
    assert profile(raw, **change)[1:] == ({"user_id"}, {"user_id": USER}, {"user_id": "US.2"})
    assert profile(raw, **change, wa_id="15550003333")[1:] == (
        {"user_id", "number"},
        {"user_id": USER, "number": "15550001111"},
        {"user_id": "US.2", "number": "15550003333"},
    )


def test_profile_of_a_changed_identity() -> None:
    """The new hash is read where On-Premises and where Cloud writes it; nobody tells the old one."""
    changed, old = {"identity"}, {"identity": None}
    onprem_form = profile({}, type="user_identity_changed", identity="h1", user="15550001111")
    assert onprem_form == ("15550001111", changed, old, {"identity": "h1"})
    cloud_form = profile({"identity": {"hash": "h2"}}, type="customer_identity_changed")
    assert cloud_form == ("15550001111", changed, old, {"identity": "h2"})


def test_no_profile() -> None:
    """Other system messages, and other messages with such an object, say nothing about the profile."""
    assert message(type="system", system={"type": "group_created"}).profile is None
    assert message(type="system").profile is None
    assert message(type="text", system={"type": "user_changed_number"}).profile is None


def test_order_keys() -> None:
    """Messages are ordered by contact, by its checksum, statuses by message; nothing else has an order."""
    assert message().order_key == message(from_user_id=USER).order_key == "52b7b95a"
    assert one(onprem(messages=[{"from_user_id": USER}])).order_key not in (None, "52b7b95a")
    assert one(onprem(messages=[{}])).order_key is None
    assert status().order_key == "s1"
    assert one(onprem(errors=[{}])).order_key is None
    assert one(cloud("calls")).order_key is None
    changed = message(type="system", system={"type": "user_changed_number"}).profile
    assert changed is not None
    assert changed.order_key is None


def test_body_holds_one_event_alone() -> None:
    """The body of an event keeps all that surrounds it except other elements and other people."""
    value = {"contacts": [ANN, BEN], "messages": [{"from": "15550001111"}, {"id": "2"}], "more": 1}
    entry = {"id": "42", "x": 1, "changes": [{"field": "messages", "y": 2, "value": value}, {"field": "f"}]}
    first, _, change = parse(orjson.dumps({"object": "o", "entry": [entry, {"changes": []}]}), RECEIVED)
    assert isinstance(first, Message)
    assert isinstance(change, Change)
    value = {"contacts": [ANN], "messages": [{"from": "15550001111"}], "more": 1}
    alone = {"id": "42", "x": 1, "changes": [{"field": "messages", "y": 2, "value": value}]}
    assert orjson.loads(first.body()) == {"object": "o", "entry": [alone]}
    alone = {"id": "42", "x": 1, "changes": [{"field": "f"}]}
    assert orjson.loads(change.body()) == {"object": "o", "entry": [alone]}
    body = onprem(contacts=[ANN], messages=[{"from": "15550001111"}, {}], statuses=[{}])
    events = [orjson.loads(e.body()) for e in parse(body, RECEIVED) if isinstance(e, Event)]
    assert events[0] == {"contacts": [ANN], "messages": [{"from": "15550001111"}]}
    assert events[2] == {"contacts": [ANN], "statuses": [{}]}


def test_body_of_a_profile_is_its_message() -> None:
    """A retry of a profile event starts from the system message that told it."""
    changed = message(type="system", system={"type": "user_changed_number"}).profile
    assert changed is not None
    again = one(changed.body())
    assert isinstance(again, Message)
    assert again.raw == changed.raw


def test_body_of_the_deepest_element() -> None:
    """An element nested as deep as can be read can also be written for a retry."""
    deep = b'{"messages":[{"text":{"a":' + b"[" * 1000 + b'"x",{"k":null}' + b"]" * 1000 + b"}}]}"
    assert one(deep).body() == deep


def test_body_round_trip_over_the_corpus() -> None:
    """Parsing the body of any sample event gives the same event."""
    if not CORPUS.is_dir():
        pytest.skip("no corpus here")
    for path in CORPUS.glob("*__*.json"):
        for event in parse(path.read_bytes(), RECEIVED):
            assert isinstance(event, Event), path.name
            again = one(event.body())
            for name in ("raw", "kind", "id", "source", "business", "contact", "timestamp"):
                assert getattr(again, name, None) == getattr(event, name, None), (path.name, name)


def test_repr_shows_nothing_personal() -> None:
    """A repr in a log shows the kind and a plain word or code, never a value of the contact or the sender."""
    secret = "Zoe Secret"
    phone = "15550007777"
    raw = {"id": secret, "from": phone, "caption": secret, "recipient_id": phone, "body": secret}
    messages = [
        {**raw, "type": "image", "image": raw, "errors": [{"code": 5, "title": secret, "details": secret}]},
        {**raw, "type": secret},
        {**raw, "type": phone},
        {**raw, "type": "system", "system": {"type": "user_changed_number", "wa_id": phone}},
    ]
    prices = {"pricing": {"category": secret}, "conversation": {"id": secret}}
    statuses = [{**raw, **prices, "status": "failed"}, {**raw, "status": secret}]
    errors = [{"code": 470}, {"code": int(phone)}]
    events = parse(onprem(messages=messages, statuses=statuses, errors=errors), 1)
    events += parse(cloud("account_update", event=secret), 1) + parse(secret.encode(), 1)
    assert [repr(e) for e in events] == [
        "<Message image>",
        "<Message ?>",
        "<Message ?>",
        "<Message system>",
        "<Status failed>",
        "<Status ?>",
        "<Error 470>",
        "<Error ?>",
        "<Change account_update>",
        "<Broken unreadable notification>",
    ]
    image, change, failed = events[0], events[3], events[4]
    assert isinstance(image, Message)
    assert isinstance(change, Message)
    assert isinstance(failed, Status)
    shown = repr([image.media, image.errors, change.profile, failed.pricing, failed.conversation])
    assert "<Profile number>" in shown
    assert secret not in shown
    assert phone not in shown


def test_broken_is_no_event() -> None:
    """What cannot become an event is told apart by its class and keeps what a dead letter needs."""
    broken = one(b"nonsense", attempt=2)
    assert isinstance(broken, Broken)
    assert not isinstance(broken, Event)
    assert (broken.body, broken.received_ms, broken.attempt) == (b"nonsense", RECEIVED, 2)


def test_events_have_no_dict() -> None:
    """Events stay small: a misspelt attribute is an error, not a new attribute."""
    with pytest.raises(AttributeError):
        message().txt = "x"  # type: ignore[attr-defined]
