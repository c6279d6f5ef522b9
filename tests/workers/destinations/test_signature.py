"""What a destination receives, checked as Meta's notifications are."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from tests.workers.destinations.test_posting import text
from workers.destinations.posting import escaped

SAID = 'Zoë: "50 €" 😀 \\ \x7f/é'
VALUE = {
    "messaging_product": "whatsapp",
    "metadata": {"phone_number_id": "7", "display_phone_number": "15550009"},
    "contacts": [{"wa_id": "15550001", "user_id": "US.1", "profile": {"name": "Zoë"}}],
    "messages": [text("m1") | {"from_user_id": "US.1", "text": {"body": SAID}}],
}
CHANGE = {"field": "messages", "value": VALUE}
NOTIFICATION = json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": [CHANGE]}]}).encode()


def test_pywa_takes_it(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """PyWa accepts the signature of what came, refuses it for another body, and reads the message."""
    pywa = pytest.importorskip("pywa", reason="the extra pywa is not installed")
    bot = pywa.WhatsApp(phone_id="7", token="token", app_secret="s3cret", validate_updates=True)
    seen: list[str] = []
    bot.on_message(lambda _, message: seen.append(message.text))
    app = application()
    commit(NOTIFICATION)
    drain(destinations({"name": "crm", "url": app.url, "secret": "s3cret"}))
    (post,) = app.posts
    signature = post.headers["x-hub-signature-256"]
    assert bot.webhook_update_validator(post.body, signature) is None
    assert bot.webhook_update_validator(post.body + b" ", signature) == ("Forbidden", 403)
    assert bot.webhook_update_handler(post.body)[1] == 200
    assert seen == [SAID]


def test_written_as_meta_writes(application: Any, destinations: Any, drain: Any, commit: Any) -> None:
    """Posts are ASCII in each form: a check that escapes them first, as Meta's documentation says, accepts them."""
    event, notification, both = application(), application(), application()
    commit(NOTIFICATION)
    drain(
        destinations(
            {"name": "event", "url": event.url},
            {"name": "notification", "url": notification.url, "body": "notification"},
            {"name": "both", "url": both.url, "bulk": 10},
        )
    )
    for app in (event, notification, both):
        (post,) = app.posts
        assert post.body.isascii()
        assert rb"Zo\u00eb: \"50 \u20ac\" \ud83d\ude00 \\ \u007f/\u00e9" in post.body
        tree = json.loads(post.body)
        tree = tree[0] if isinstance(tree, list) else tree
        assert tree["entry"][0]["changes"][0]["value"]["messages"] == VALUE["messages"]


@pytest.mark.parametrize("said", ["é", "aé", "\x7f", '"é"é\\é\n', "\u2028 \U0010ffff", "é" * 100, "\\u00e9 é", "a"])
def test_escaped(said: str) -> None:
    """It is the same JSON, in ASCII; what is ASCII already stays as it is."""
    body = orjson.dumps({said: [said, 1.5, None]})
    found = escaped(body)
    assert orjson.loads(found) == orjson.loads(body)
    assert found.isascii()
    assert b"\x7f" not in found
    assert escaped(found) is found
