"""docs/recipes/n8n.md, against what n8n does with a request."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.workers.destinations.conftest import Application, Post

KEY = "opensesame"
SECRET = b"the app's secret"


def _notification() -> bytes:
    """Two messages and a status in one POST, and a change of another field, as Meta may send them."""
    message = {"timestamp": "1700000000", "type": "text", "text": {"body": "Grüße"}}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550009", "phone_number_id": "7"},
        "messages": [{"from": "15550001", "id": f"m{n}", **message} for n in (1, 2)],
        "statuses": [{"id": "s1", "status": "read", "timestamp": "1700000000", "recipient_id": "15550001"}],
    }
    changes = [{"field": "messages", "value": value}, {"field": "account_update", "value": {"event": "VERIFIED"}}]
    return json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "9", "changes": changes}]}).encode()


class Webhook:
    """The node Webhook of n8n-io/n8n with Header Auth, and the executions that it starts.

    `packages/nodes-base/nodes/Webhook/utils.ts`: validateWebhookAuthentication (403). What is not registered is 404.
    """

    def __init__(self) -> None:
        self.executions: list[dict[str, Any]] = []

    def answer(self, post: Post) -> web.Response:
        if post.path != "/webhook/whatsapp":
            return web.Response(status=404)
        if post.headers.get("x-gateway-key") != KEY:
            return web.Response(status=403)
        self.executions.append({"headers": post.headers, "body": json.loads(post.body)})
        return web.json_response({"message": "Workflow was started"})


class Trigger:
    """The node WhatsApp Trigger with its defaults, and the executions that it starts.

    `packages/nodes-base/nodes/WhatsApp/WhatsAppTrigger.node.ts`: webhook() and filterStatuses(). Whatever it does not
    like it answers like anything else.
    """

    def __init__(self) -> None:
        self.executions: list[dict[str, Any]] = []

    def answer(self, post: Post) -> web.Response:
        if not (post.path.startswith("/webhook/") and post.path.endswith("/webhook")):
            return web.Response(status=404)
        body = json.loads(post.body)
        digest = hmac.new(SECRET, post.body, hashlib.sha256).hexdigest()
        genuine = post.headers.get("x-hub-signature-256") == f"sha256={digest}"
        if genuine and body["object"] == "whatsapp_business_account":
            changes = [change for entry in body["entry"] for change in entry["changes"]]
            self.executions += [{**change["value"], "field": change["field"]} for change in changes]
        return web.json_response({"message": "Workflow was started"})


def test_webhook(
    application: Callable[[], Application],
    recipe: Any,
    drain: Any,
    commit: Any,
    dead: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each text is an execution, found where the page says, with an id of its own; a wrong key makes dead letters."""
    node, app = Webhook(), application()
    app.answer = node.answer
    monkeypatch.setenv("N8N_KEY", KEY)
    file = recipe("n8n.md", app.host, number=0)
    commit(_notification())
    drain(file)
    found = [one["body"]["entry"][0]["changes"][0]["value"]["messages"] for one in node.executions]
    assert [(message["id"], message["text"]["body"]) for (message,) in found] == [("m1", "Grüße"), ("m2", "Grüße")]
    assert len({one["headers"]["x-wa-event"] for one in node.executions}) == 2
    commit(_notification().replace(b'"m1"', b'"m3"'))
    drain(file, N8N_KEY="another")
    assert [letter["detail"] for letter in dead("messages")] == ["answered 403"]
    assert len(node.executions) == 2


@pytest.mark.parametrize("secret", [SECRET.decode(), "another secret"])
def test_trigger(
    secret: str, application: Callable[[], Application], recipe: Any, drain: Any, commit: Any, dead: Any
) -> None:
    """Each message and status is an execution; with a wrong secret there is none, though n8n says 200."""
    node, app = Trigger(), application()
    app.answer = node.answer
    file = recipe("n8n.md", app.host, number=1)
    file.write_text(file.read_text().replace(SECRET.decode(), secret))
    commit(_notification())
    drain(file)
    ids = [item["id"] for one in node.executions for name in ("messages", "statuses") for item in one.get(name, [])]
    assert sorted(ids) == (["m1", "m2", "s1"] if secret == SECRET.decode() else [])
    assert {one["field"] for one in node.executions} <= {"messages"}
    assert len(app.posts) == 3
    assert dead("messages") == []
