"""The cases that people who receive notifications have reported: what handlers get of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from ingest.http.compressed import unpacked
from ingest.routing import Router
from ingest.store.queues import lane_of
from workers.events import Broken, Change, Event, Message
from workers.events.broken import FOREIGN
from workers.events.parsing import parse
from workers.handlers import Handlers

CASES = Path(__file__).parents[4] / "shared" / "cases"
ANN, BEN = "16505550101", "16505550102"
USER, OTHER = "US.11110000000000000001", "US.11110000000000000002"

Row = tuple[str, dict[str, Any]]
RIGHT: dict[str, tuple[str, list[Row]]] = {
    "by03-nul": ("messages", [("message", {"text": "a\0b"}), ("message", {"text": "good neighbour"})]),
    "by14-contacts-only": ("other", [("change", {"path": "entry[].changes[].value.contacts[]"})]),
    "by15-messages-field-with-echoes": (
        "messages",
        [
            (
                "message",
                {
                    "direction": "out",
                    "text": "I answer by phone",
                    "reply_to": "wamid.Q1",
                    "contact_id": ANN,
                    "user_id": USER,
                    "sender": "15550783881",
                },
            )
        ],
    ),
    "chg01-echo": (
        "messages",
        [("message", {"direction": "out", "id": "wamid.X1", "text": "I answer by phone", "recipient": ANN})],
    ),
    "chg02-echoes-many-one-breaks": (
        "messages",
        [("message", {"direction": "out", "id": f"wamid.X{n}", "contact_id": ANN}) for n in range(10)],
    ),
    "chg03-standby-message": (
        "messages",
        [
            (
                "message",
                {
                    "direction": "in",
                    "standby": True,
                    "text": "hi",
                    "name": "Ann Example",
                    "business": "106540000000001",
                    "display_number": "15550783881",
                },
            )
        ],
    ),
    "chg04-standby-status": ("statuses", [("status", {"standby": True, "status": "delivered", "recipient": ANN})]),
    "chg06-handover": (
        "messages",
        [
            (
                "handover",
                {
                    "type": "control_passed",
                    "business": "106540000000001",
                    "display_number": "15550783881",
                    "contact_id": ANN,
                    "user_id": USER,
                    "previous_owner": "ai_agent",
                    "new_owner": "escalation",
                    "metadata": "wants a person",
                },
            )
        ],
    ),
    "chg07-call-connect": (
        "messages",
        [
            (
                "call",
                {
                    "event": "connect",
                    "id": "wacid.1",
                    "direction": "in",
                    "contact_id": USER,
                    "name": "Ann Example",
                    "session": {"sdp_type": "offer", "sdp": "v=0"},
                    "opaque": "agent-7",
                },
            )
        ],
    ),
    "chg08-call-terminate": (
        "messages",
        [("call", {"event": "terminate", "id": "wacid.1", "duration": 30, "status": "COMPLETED", "contact_id": USER})],
    ),
    "chg09-call-status": (
        "messages",
        [("call", {"event": "accepted", "id": "wacid.2", "direction": "out", "contact_id": ANN})],
    ),
    "chg10-opt-out": (
        "messages",
        [("preference", {"value": "stop", "category": "marketing_messages", "contact_id": ANN, "user_id": USER})],
    ),
    "chg11-history": (
        "other",
        [
            ("change", {"field": "history"}),
            *(("message", {"history": True, "id": f"wamid.H{n}", "direction": "in"}) for n in range(2000)),
        ],
    ),
    "chg12-history-refused": ("other", [("change", {"field": "history"})]),
    "chg13-user-id-update": ("other", [("change", {"field": "user_id_update"})]),
    "chg14-group-participants": ("other", [("change", {"field": "group_participants_update"})]),
    "chg15-template": (
        "other",
        [("change", {"field": "message_template_status_update", "account": "102290000000001"})],
    ),
    "chg16-echo-edit": (
        "messages",
        [("message", {"direction": "out", "type": "edit", "text": "better", "original_id": "wamid.X1"})],
    ),
    "con01-flow": (
        "messages",
        [
            (
                "message",
                {
                    "interactive_type": "nfm_reply",
                    "flow": {"flow_token": "order-17", "rating": "good"},
                    "flow_name": "flow",
                    "reply_to_sender": "15550783881",
                },
            )
        ],
    ),
    "con02-edit-text": ("messages", [("message", {"text": "two, not three", "original_id": "wamid.D0"})]),
    "con03-edit-caption": ("messages", [("message", {"text": "new caption", "original_id": "wamid.D3"})]),
    "con04-revoke": ("messages", [("message", {"text": None, "original_id": "wamid.D0"})]),
    "con05-unsupported-poll": ("messages", [("message", {"unsupported_type": "poll_creation"})]),
    "con06-reaction-removed": ("messages", [("message", {"emoji": None, "reaction_to": "wamid.M0"})]),
    "con07-contact-request": ("messages", [("message", {"username": "ann_example", "user_id": USER})]),
    "con08-button-in-type": (
        "messages",
        [("message", {"text": "Yes", "payload": "yes", "interactive_type": "button_reply"})],
    ),
    "con09-unavailable": ("messages", [("message", {"type": "unsupported"})]),
    "con10-template-button": ("messages", [("message", {"text": "Stop", "payload": "STOP", "reply_to": "T1"})]),
    "con11-instagram-code-no-profile": ("messages", [("message", {"name": None, "wa_id": ANN})]),
    "con12-welcome": ("messages", [("message", {"type": "request_welcome"})]),
    "con13-referral": ("messages", [("message", {"text": "hello"})]),
    "env01-two-accounts": (
        "messages",
        [
            ("message", {"account": "102290000000001", "display_number": "15550783881"}),
            ("error", {"account": "102290000000002", "display_number": "15550783882", "business": "106540000000002"}),
            ("status", {"account": "102290000000002", "display_number": "15550783882"}),
        ],
    ),
    "env03-relay-field-beside-entry": ("messages", [("message", {"text": "a"})]),
    "id01-system-user-id-no-phone": ("messages", [("message", {"contact_id": USER, "contact": None})]),
    "id03-system-from-user-id-is-new": ("messages", [("message", {"contact_id": USER})]),
    "id05-from-holds-user-id": (
        "messages",
        [("message", {"sender": USER, "sender_user_id": USER, "wa_id": None, "name": "Ann Example"})],
    ),
    "id06-parent-id-only": (
        "messages",
        [("message", {"sender": "US.ENT.1", "parent_user_id": "US.ENT.1", "name": "Ann Example"})],
    ),
    "id07-username-only": ("messages", [("message", {"name": None, "username": "ann_example"})]),
    "id08-order-phone-then-both": ("messages", [("message", {"user_id": USER, "sender": ANN})] * 3),
    "id09-brazil-two-people": (
        "messages",
        [
            ("message", {"name": "Ann Example", "wa_id": "5500995550101"}),
            ("message", {"name": "Ben Example", "wa_id": "5500995550102"}),
        ],
    ),
    "id10-brazil-one": ("messages", [("message", {"name": "Ann Example"})]),
    "id12-lone-contact-of-another": (
        "messages",
        [("message", {"name": "Cleo Example"}), ("message", {"name": None, "contact": None, "user_id": None})],
    ),
    "live-T12-turn-outbound": (
        "messages",
        [("message", {"direction": "out", "id": "out-1", "contact_id": ANN, "text": "operator answers"})],
    ),
    "live-T13-turn-outbound-in-messages": (
        "messages",
        [("message", {"direction": "out", "id": "out-2", "recipient": ANN, "sender": "15550783881"})],
    ),
    "st01-payment-failed-onprem": (
        "statuses",
        [("status", {"status": "failed", "type": "payment", "subject": "payment", "recipient": ANN})],
    ),
    "st02-payment-captured-cloud": ("statuses", [("status", {"subject": "payment", "recipient": ANN})]),
    "st03-contacts-without-profile": ("statuses", [("status", {"name": None, "recipient": ANN})]),
    "st04-failed-131026": ("statuses", [("status", {"subject": "failed"})]),
    "st05-parent-recipient": ("statuses", [("status", {"recipient": "US.ENT.1"})]),
}
"""Of each case its lane, and its events with some of what they must say."""

READ: dict[str, tuple[str, str]] = {
    "by01-lone-surrogate-text": ("ok \ufffd", "Ann Example"),
    "by02-lone-surrogate-name": ("XX", "Ann \ufffd"),
    "by04-gzip": ("XX", "Ann Example"),
    "by05-bom": ("XX", "Ann Example"),
    "by06-raw-newline": ("line1\nline2", "Ann Example"),
    "by07-latin1": ("café", "Ann Example"),
    "by08-list-around": ("XX", "Ann Example"),
    "by09-bare-change": ("XX", "Ann Example"),
    "by10-json-in-string": ("XX", "Ann Example"),
}
"""Of each body that is not the JSON of a notification: text and name of its first message."""

FOREIGN_ONES = {"by13-wrong-object-user", "by16-instagram-object"}

SEQUENCES = {
    "live-T4-echo-beside-message": "here",
    "live-T8-number-field-holds-user-id": "here",
    "live-T1-delivered-then-sent": "tests/workers/engine/test_claims.py",
    "live-T1-failed-then-sent": "tests/workers/engine/test_claims.py",
    "live-T2-status-by-user-id-then-number": "tests/workers/engine/test_claims.py",
    "live-T6-exact-copy": "tests/workers/engine/test_claims.py",
    "live-T6b-copy-with-fresh-media-url": "tests/workers/engine/test_claims.py",
    "live-T11-copy-with-moved-counter": "tests/workers/engine/test_claims.py",
    "live-T3-one-contact-two-keys": "tests/workers/engine/test_cases.py",
    "live-T3b-both-then-user-id": "tests/workers/engine/test_cases.py",
    "live-T6c-copy-with-user-id-added": "tests/workers/engine/test_cases.py",
    "live-T7-two-workers-one-message": "tests/workers/engine/test_cases.py",
    "live-T9-lone-contact-of-another": "tests/workers/engine/test_cases.py",
    "live-T10-user-id-link-lost": "tests/workers/engine/test_cases.py",
}
"""Where each sequence is tested."""

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")


def read(name: str) -> list[Event]:
    events = parse((CASES / f"{name}.json").read_bytes(), 1)
    assert all(isinstance(event, Event) for event in events)
    return [event for event in events if isinstance(event, Event)]


def steps(name: str) -> list[list[Event]]:
    """The events of each body of a sequence."""
    bodies = orjson.loads((CASES / f"{name}.json").read_bytes())["bodies"]
    return [[one for one in parse(orjson.dumps(body), 1) if isinstance(one, Event)] for body in bodies]


@pytest.mark.parametrize("name", RIGHT)
def test_case(name: str) -> None:
    """A reported body gives the events, with the attributes, that its reporter would have wanted."""
    lane, rows = RIGHT[name]
    events = read(name)
    assert [event.kind for event in events] == [kind for kind, _ in rows]
    assert [{key: getattr(event, key) for key in said} for event, (_, said) in zip(events, rows, strict=True)] == [
        said for _, said in rows
    ]
    assert {lane_of(one.queue) for one in Router(8)((CASES / f"{name}.json").read_bytes())} == {lane}


def test_every_case_is_known() -> None:
    """No file of the folder is left out, and none is gone."""
    assert {path.stem for path in CASES.glob("*.json")} == {*RIGHT, *READ, *FOREIGN_ONES, *SEQUENCES}


@pytest.mark.parametrize("name", READ)
def test_what_is_no_strict_json(name: str) -> None:
    """Both messages of a body that a strict parser refuses are there, each with its text; U+FFFD is where half an emoji
    was."""
    body = (CASES / f"{name}.json").read_bytes()
    body = unpacked(body, "gzip", 1 << 20) if name == "by04-gzip" else body
    first, second = parse(body, 1)
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    assert ((first.text, first.name), second.text) == (READ[name], "good neighbour")
    assert {lane_of(one.queue) for one in Router(8)(body)} == {"messages"}


@pytest.mark.parametrize("name", sorted(FOREIGN_ONES))
def test_another_platforms_object(name: str) -> None:
    """It is counted, and neither an event nor a dead letter."""
    (item,) = parse((CASES / f"{name}.json").read_bytes(), 1)
    assert isinstance(item, Broken)
    assert item.reason == FOREIGN


@pytest.mark.parametrize("name", RIGHT)
def test_a_retry_is_the_same_event(name: str) -> None:
    """Each event, written alone and read again, is the same in all that can be read of it."""
    for event in read(name):
        (again,) = parse(event.body(), 1)
        assert type(again) is type(event)
        said = {key for key in dir(type(event)) if isinstance(getattr(type(event), key), property)}
        for key in said - {"notification", "body_digest", "envelope", "profile", "media"}:
            assert getattr(again, key) == getattr(event, key), key


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "id01-system-user-id-no-phone",
            {"user_id": USER, "parent_user_id": "US.ENT.1"},
            {"user_id": OTHER, "parent_user_id": "US.ENT.2"},
        ),
        ("id03-system-from-user-id-is-new", {"user_id": USER}, {"user_id": OTHER}),
        ("chg13-user-id-update", {"user_id": USER}, {"user_id": OTHER}),
    ],
)
def test_a_new_user_id_is_news(name: str, old: dict[str, str], new: dict[str, str]) -> None:
    """News of a user id name the former and the new one, and both are aliases, whatever the sender leaves out."""
    (event,) = read(name)
    assert isinstance(event, Message | Change)
    profile = event.profile
    assert profile is not None
    assert (dict(profile.old), dict(profile.new)) == (old, new)
    assert {("user_id", USER), ("user_id", OTHER)} <= set(profile.aliases)
    assert profile.contact in (USER, ANN)


def test_nobody_gets_news_of_another() -> None:
    """A system message in the batch of another contact is about the contact that it names alone."""
    _, event = read("id12-lone-contact-of-another")
    assert isinstance(event, Message)
    assert event.profile is not None
    assert dict(event.profile.old) == {"number": "16505550302"}
    assert set(event.profile.aliases) == {
        ("number", "16505550302"),
        ("number", "16505550303"),
        ("user_id", "US.55550000000000000002"),
    }
    assert event.profile.facts["name"] is None


def test_a_hidden_number_is_no_number() -> None:
    """A user id in the place of the number is never told as a number."""
    for (event,) in steps("live-T8-number-field-holds-user-id"):
        assert isinstance(event, Message)
        assert event._facts().before["number"] in (None, "16505550301")
        assert event._facts().before["user_id"] == "US.44440000000000000001"


def test_an_echo_and_the_answer_have_one_order() -> None:
    """What staff writes in the phone's app and what the contact writes are in order: one key, one partition."""
    (echo,), (message,) = steps("live-T4-echo-beside-message")
    assert echo.order_key == message.order_key is not None
    bodies = orjson.loads((CASES / "live-T4-echo-beside-message.json").read_bytes())["bodies"]
    assert len({one.queue for body in bodies for one in Router(64)(orjson.dumps(body))}) == 1


def test_edited_media_and_payments_are_typed() -> None:
    """The picture of an edit, the payment of a status and the advertisement have attributes of their own."""
    (edit,), (ad,), (card,) = (read(name) for name in ("con03-edit-caption", "con13-referral", "con07-contact-request"))
    assert isinstance(edit, Message)
    assert isinstance(ad, Message)
    assert isinstance(card, Message)
    assert edit.media is not None
    assert (edit.media.id, edit.media.caption) == ("77", "new caption")
    assert ad.ad is not None
    assert (ad.ad.ctwa_clid, ad.ad.welcome) == ("clid", "Hi!")
    assert [(one.origin, one.phones[0].wa_id) for one in card.cards] == [("contact_request", ANN)]
    (failed,), (captured,) = read("st01-payment-failed-onprem"), read("st02-payment-captured-cloud")
    assert failed.payment is not None  # type: ignore[attr-defined]
    assert failed.payment.reference_id == "order-17"  # type: ignore[attr-defined]
    payment = captured.payment  # type: ignore[attr-defined]
    assert (payment.amount, payment.offset, payment.currency) == (21000, 100, "INR")
    assert (payment.transaction_id, payment.transaction_status) == ("t1", "success")


def test_the_relays_key_is_in_the_envelope() -> None:
    """What a relay writes beside the entries can be read, and not written."""
    (event,) = read("env03-relay-field-beside-entry")
    assert event.envelope["gs_app_id"] == "app-0000-1111"
    with pytest.raises(TypeError):
        event.envelope["gs_app_id"] = "x"  # type: ignore[index]


def test_no_handler_takes_what_is_not_for_it() -> None:
    """A payment's failure is no failed message, an echo is no message of a contact, and history is asked for."""
    handlers = Handlers()
    handlers.status("failed")(print)
    handlers.message()(print)
    for name in ("st01-payment-failed-onprem", "chg01-echo", "live-T13-turn-outbound-in-messages", "chg11-history"):
        assert all(handlers.calls(event) == [] for event in read(name)), name
    assert len(handlers.calls(read("st04-failed-131026")[0])) == 1
    assert len(handlers.calls(read("chg03-standby-message")[0])) == 1
