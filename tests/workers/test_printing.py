"""The handlers that run when none are named."""

from __future__ import annotations

import pytest

from examples import printing as example
from ingest.settings import Settings
from workers.loading import load
from workers.printing import handlers
from workers.testing import call

SYSTEM = {"body": "Ann changed", "type": "user_changed_number", "new_wa_id": "15550002"}
ONPREM = {
    "messages": [
        {"from": "15550001", "id": "m1", "type": "text", "text": {"body": "Hello"}},
        {"from": "15550001", "id": "m2", "type": "system", "system": SYSTEM},
    ],
    "statuses": [{"id": "s1", "status": "read"}],
    "errors": [{"code": 1000, "title": "Generic error"}],
}
CHANGES = [
    {"field": "account_update", "value": {}},
    {"field": "messages", "value": {"message_echoes": [{"to": "15550001", "type": "text", "text": {"body": "Hi"}}]}},
    {"field": "messages", "value": {"calls": [{"event": "connect", "from": "15550001"}]}},
    {"field": "messages", "value": {"user_preferences": [{"wa_id": "1", "value": "stop", "category": "marketing"}]}},
    {
        "field": "messaging_handovers",
        "value": {"type": "control_passed", "sender": {"wa_id": "1"}, "control_passed": {"new_owner_role": "r"}},
    },
]
CLOUD = {"entry": [{"id": "1", "changes": CHANGES}]}


def test_each_kind_of_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages, calls, statuses, errors, news of contacts and changes are printed, each as one line."""
    outcomes = [called.outcome for body in (ONPREM, CLOUD) for called in call(handlers, body)]
    assert outcomes == ["handled"] * 9
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "call     connect of 15550001",
        "change   account_update of account 1",
        "change   messaging_handovers of account 1",
        "error    1000 Generic error",
        "handover control_passed of 1, to r",
        "message  system from 15550001: ",
        "message  text from 15550001: Hello",
        "message  text to 15550001: Hi",
        "profile  15550001: number changed",
        "status   read of s1",
        "wants    stop marketing for 1",
    ]


def test_what_senders_write_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that would steer a terminal is printed with escapes; emoji and Persian stay as they are."""
    text = "\x1b]0;evil\x07\u202e\x9b31m\nme\u200c👩\u200d💻"
    call(handlers, {"messages": [{"from": "\x1b[2J", "id": "m", "type": "text", "text": {"body": text}}]})
    shown = "\\x1b]0;evil\\x07\\u202e\\x9b31m\\nme\u200c👩\u200d💻"
    assert capsys.readouterr().out == f"message  text from \\x1b[2J: {shown}\n"


def test_they_are_the_default_and_an_example() -> None:
    """Without WA_HANDLERS, and as `examples.printing:handlers`, they are what runs."""
    assert load(Settings().handlers) is handlers is example.handlers
