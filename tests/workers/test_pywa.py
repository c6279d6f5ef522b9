"""PyWa's callbacks behind the pipeline, plain and async."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from workers import RetryIn
from workers.pywa import handlers_of
from workers.testing import call

pytest.importorskip("pywa", reason="the extra pywa is not installed")

CONTACT = {"wa_id": "15550001", "user_id": "US.1", "profile": {"name": "Ada"}}
"""With the user id that PyWa asks for since 2026."""


def body(*messages: dict[str, Any], statuses: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    value: dict[str, Any] = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550009", "phone_number_id": "7"},
    }
    if messages:
        value |= {"contacts": [CONTACT], "messages": list(messages)}
    if statuses:
        value["statuses"] = list(statuses)
    change = {"field": "messages", "value": value}
    return {"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": [change]}]}


def text(id: str, said: str = "Hello") -> dict[str, Any]:
    return {
        "from": "15550001",
        "from_user_id": "US.1",
        "id": id,
        "timestamp": "1700000000",
        "type": "text",
        "text": {"body": said},
    }


def status(id: str) -> dict[str, Any]:
    return {
        "id": id,
        "status": "delivered",
        "timestamp": "1700000000",
        "recipient_id": "15550001",
        "recipient_user_id": "US.1",
    }


@pytest.fixture(params=["pywa", "pywa_async"])
def bot(request: pytest.FixtureRequest) -> tuple[Any, list[str]]:
    """A client with callbacks as PyWa's users write them, and what they have seen."""
    module = pytest.importorskip(request.param)
    client = module.WhatsApp(phone_id="7", token="token")
    seen: list[str] = []

    def on_message(_: Any, message: Any) -> None:
        seen.append(message.id)
        if message.text == "break":
            raise LookupError("no such customer")
        if message.text == "later":
            raise RetryIn(60)

    def on_status(_: Any, update: Any) -> None:
        seen.append(update.id)

    if request.param == "pywa_async":

        async def message_later(client: Any, message: Any) -> None:
            on_message(client, message)

        async def status_later(client: Any, update: Any) -> None:
            on_status(client, update)

        client.on_message(message_later)
        client.on_message_status(status_later)
    else:
        client.on_message(on_message)
        client.on_message_status(on_status)
    return client, seen


def test_every_element(bot: Any) -> None:
    """Each message and status of a notification comes to its callback, not the first one only."""
    client, seen = bot
    found = call(handlers_of(client), body(text("m1"), text("m2"), statuses=(status("s1"), status("s2"))))
    assert [one.outcome for one in found] == ["handled"] * 4
    assert sorted(seen) == ["m1", "m2", "s1", "s2"]


def test_what_is_raised_counts(bot: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises fails that event alone, as a handler's exception does; the log quotes nothing."""
    client, seen = bot
    caplog.set_level(logging.DEBUG)
    one, other, third = call(handlers_of(client), body(text("m1", "break"), text("m2"), text("m3", "later")))
    assert (one.outcome, other.outcome, third.outcome) == ("failed", "handled", "failed")
    assert one.detail.startswith("LookupError: no such customer")
    assert "test_pywa.py" in one.detail
    assert third.retry_in == 60
    assert seen == ["m1", "m2", "m3"]
    assert not [record for record in caplog.records if record.exc_info]


def test_tried_again(bot: Any) -> None:
    """An event that is tried again is not taken for a copy, as PyWa would take a body that it has had."""
    client, seen = bot
    handlers = handlers_of(client)
    for attempt in (1, 2, 3):
        call(handlers, body(text("m1")), attempt=attempt)
    call(handlers, json.dumps(body(text("m1"))).encode())
    assert seen == ["m1"] * 4


def test_in_a_worker(bot: Any) -> None:
    """It is one handler with a name, for each kind of event."""
    (handler,) = handlers_of(bot[0]).registered
    assert handler.name == "pywa"
    assert set(handler.by_kind or ()) == {"message", "status", "error", "change", "call", "handover", "preference"}


def test_a_form_that_pywa_does_not_know(bot: Any) -> None:
    """A notification of the On-Premises form is nothing to PyWa: that is said, and not counted as handled."""
    client, seen = bot
    (found,) = call(handlers_of(client), {"messages": [text("m1")]})
    assert found.outcome in ("rejected", "failed")
    assert seen == []
