"""The Graph API, as far as it says where notifications of the Cloud API go.

For a notification Meta looks for the override URL of the phone number, then that of the WhatsApp Business account
(WABA), then the app's own URL ("Webhook overrides" in its documentation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from workers.setup.api import Server, json_of, refusal, request, unexpected
from workers.setup.credentials import bearer

LONGEST_URL = 200
"""Characters of an override URL at most."""


class Graph(NamedTuple):
    """Where the API is, with its version, and the token of a system user or app."""

    server: Server
    token: str


class Override(NamedTuple):
    """Another URL than the app's, and the token that Meta sends when it checks that URL."""

    url: str
    verify_token: str

    def parameters(self) -> dict[str, str]:
        return {"override_callback_uri": self.url, "verify_token": self.verify_token}


class App(NamedTuple):
    """An app that gets the notifications of a WABA; `override_url` is None when they go to the app's own URL."""

    name: str
    id: str
    override_url: str | None


def subscribe(graph: Graph, waba: str, override: Override | None) -> None:
    """Let the token's app get a WABA's notifications. Without an override, an earlier one ends. Raises ApiError."""
    _change(graph, f"/{waba}/subscribed_apps", override.parameters() if override else None, override)


def override_phone(graph: Graph, phone: str, override: Override) -> None:
    """Send the notifications of one phone number elsewhere. Raises ApiError."""
    _change(graph, f"/{phone}", {"webhook_configuration": override.parameters()}, override)


def subscribed(graph: Graph, waba: str) -> list[App]:
    """The apps that get the notifications of a WABA. Raises ApiError."""
    try:
        return [_app(item) for item in _call(graph, "GET", f"/{waba}/subscribed_apps")["data"]]
    except (KeyError, TypeError, AttributeError):
        raise unexpected(graph.server) from None


def _app(item: dict[str, Any]) -> App:
    app = item["whatsapp_business_api_data"]
    return App(str(app.get("name", "")), str(app["id"]), item.get("override_callback_uri"))


def _change(graph: Graph, path: str, parameters: dict[str, Any] | None, override: Override | None) -> None:
    body = orjson.dumps(parameters) if parameters else None
    answer = _call(graph, "POST", path, body, override.verify_token if override else "")
    if answer.get("success") is not True:
        raise unexpected(graph.server)


def _call(graph: Graph, method: str, path: str, body: bytes | None = None, *hidden: str) -> dict[str, Any]:
    headers = bearer(graph.token, "GRAPH_TOKEN") | {"Content-Type": "application/json"}
    answer = request(graph.server, method, path, headers, body)
    found = json_of(graph.server, answer)
    if not answer.success or "error" in found:
        raise refusal(graph.server, answer, _reasons(found), (graph.token, *hidden))
    return found


def _reasons(payload: dict[str, Any]) -> Iterator[str]:
    error = payload.get("error")
    if isinstance(error, dict):
        named = ("type", "code", "error_subcode", "fbtrace_id")
        facts = ", ".join(f"{name} {error[name]}" for name in named if name in error)
        yield f"{error.get('message', 'refused')} ({facts})"
