"""docs/recipes/chatwoot.md, against what Chatwoot does with a request."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.workers.destinations.conftest import Application, Post

NUMBER, PHONE_ID = "15550009", "106540352242922"
SECRET = b"the app's secret"


class Chatwoot:
    """What chatwoot/chatwoot demands and reads, and what it would show.

    `app/controllers/webhooks/whatsapp_controller.rb` (the path), `concerns/meta_token_verify_concern.rb` (the
    signature: 401), `app/jobs/webhooks/whatsapp_events_job.rb` (which inbox), and
    `app/services/whatsapp/incoming_message_base_service.rb` (what is read: the first status, else the first message).
    """

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self.statuses: list[tuple[str, str]] = []
        self.dropped = 0

    def answer(self, post: Post) -> web.Response:
        if post.path != f"/webhooks/whatsapp/+{NUMBER}":
            return web.Response(status=404)
        digest = hmac.new(SECRET, post.body, hashlib.sha256).hexdigest()
        if post.headers.get("x-hub-signature-256") != f"sha256={digest}":
            return web.Response(status=401)
        self._job(json.loads(post.body))
        return web.Response()

    def _job(self, params: dict[str, Any]) -> None:
        value = params["entry"][0]["changes"][0]["value"]
        metadata = value.get("metadata", {})
        inbox = ("+" + metadata.get("display_phone_number", ""), metadata.get("phone_number_id"))
        if params.get("object") != "whatsapp_business_account" or inbox != (f"+{NUMBER}", PHONE_ID):
            self.dropped += 1
        elif value.get("statuses"):
            status = value["statuses"][0]
            self.statuses.append((status["id"], status["status"]))
        elif value.get("messages"):
            message, contact = value["messages"][0], value["contacts"][0]
            assert contact["wa_id"] == message["from"]
            self.messages.setdefault(message["id"], f"{contact['profile']['name']}: {message['text']['body']}")


def _notification(phone_id: str = PHONE_ID) -> bytes:
    """Two messages of two people and a status in one POST, as Meta may send them."""
    people = {"15550001": "Zoë", "15550002": "Bo"}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": NUMBER, "phone_number_id": phone_id},
        "contacts": [{"wa_id": number, "profile": {"name": name}} for number, name in people.items()],
        "messages": [
            {"from": number, "id": f"m{number}", "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}}
            for number in people
        ],
        "statuses": [{"id": "s1", "status": "read", "timestamp": "1700000000", "recipient_id": "15550001"}],
    }
    change = {"field": "messages", "value": value}
    return json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": [change]}]}).encode()


def test_chatwoot(application: Callable[[], Application], recipe: Any, drain: Any, commit: Any, dead: Any) -> None:
    """All that Meta put into one notification arrives, each in the form of which Chatwoot reads everything."""
    chatwoot, app = Chatwoot(), application()
    app.answer = chatwoot.answer
    commit(_notification(), _notification("another number"))
    drain(recipe("chatwoot.md", app.host))
    assert chatwoot.messages == {"m15550001": "Zoë: Hello", "m15550002": "Bo: Hello"}
    assert chatwoot.statuses == [("s1", "read")]
    assert chatwoot.dropped == 0
    assert len(app.posts) == 3
    assert dead("messages") == dead("statuses") == []


def test_another_secret(
    application: Callable[[], Application], recipe: Any, drain: Any, commit: Any, dead: Any
) -> None:
    """With another secret Chatwoot says 401, and nothing is lost: dead letters wait to be posted again."""
    app = application()
    app.answer = Chatwoot().answer
    file = recipe("chatwoot.md", app.host)
    file.write_text(file.read_text().replace(SECRET.decode(), "another secret"))
    commit(_notification())
    drain(file)
    letters = dead("messages")
    assert [letter["detail"] for letter in letters] == ["answered 401"] * len(letters)
    assert len(letters) + len(dead("statuses")) == 3
