"""The HTTPS API of the On-Premises client (the Coreapp): users, settings, certificates, health.

A token is valid for 7 days unless the client is configured otherwise; after that it answers every call with 401.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from workers.setup import token_file
from workers.setup.api import Answer, ApiError, Server, json_of, refusal, request, unexpected
from workers.setup.credentials import bearer, from_environment
from workers.setup.token_file import Login

PASSWORD = "COREAPP_PASSWORD"  # noqa: S105 - the variable's name

_SETTINGS = "/v1/settings/application"
_CA = "/v1/certificates/webhooks/ca"
_JSON = {"Content-Type": "application/json"}
_LOGIN = "run `wa-ingest coreapp login`"


class Coreapp(NamedTuple):
    """Where the API is, and where its token is kept."""

    server: Server
    token_file: Path


def login(coreapp: Coreapp, user: str, password: str, new_password: str | None = None) -> Login:
    """Get a token and keep it. The first login of an admin must set a new password. Raises ApiError."""
    logins = token_file.load(coreapp.token_file)
    token_file.save(coreapp.token_file, logins)  # if that fails, it fails before the password is changed
    basic = b64encode(f"{user}:{password}".encode()).decode()
    body = orjson.dumps({"new_password": new_password}) if new_password else None
    headers = {"Authorization": f"Basic {basic}", **_JSON}
    answer = request(coreapp.server, "POST", "/v1/users/login", headers, body)
    if not answer.success:
        error = _refusal(coreapp, answer, basic, password, new_password or "")
        remedy = "" if new_password else ", and whether this first login needs --first"
        raise ApiError(*error.lines[:-1], f"{error.lines[-1]}; login refused: check --user, the password{remedy}")
    try:
        found = json_of(coreapp.server, answer)["users"][0]
        made = Login(user, str(found["token"]), str(found["expires_after"]))
    except (KeyError, IndexError, TypeError):
        raise unexpected(coreapp.server) from None
    token_file.save(coreapp.token_file, {**logins, coreapp.server.url: made})
    return made


def settings(coreapp: Coreapp) -> dict[str, Any]:
    """The application settings, nested as the API has them. Raises ApiError."""
    found = json_of(coreapp.server, _call(coreapp, "GET", _SETTINGS)).get("settings")
    if not isinstance(found, dict) or not isinstance(found.get("application"), dict):
        raise unexpected(coreapp.server)
    return dict(found["application"])


def change_settings(coreapp: Coreapp, nested: dict[str, Any]) -> None:
    """Change these settings; the others keep their values. Raises ApiError."""
    json_of(coreapp.server, _call(coreapp, "PATCH", _SETTINGS, _JSON, orjson.dumps(nested)))


def upload_ca(coreapp: Coreapp, pem: bytes) -> None:
    """Let the client trust these certificates when it calls the webhook, after its restart. Raises ApiError."""
    json_of(coreapp.server, _call(coreapp, "POST", _CA, {"Content-Type": "text/plain"}, pem))


def ca(coreapp: Coreapp) -> bytes:
    """The certificates that were uploaded, PEM. Raises ApiError."""
    return _call(coreapp, "GET", _CA).body


def delete_ca(coreapp: Coreapp) -> None:
    """Remove what was uploaded. Raises ApiError."""
    json_of(coreapp.server, _call(coreapp, "DELETE", _CA))


class Node(NamedTuple):
    """A Coreapp's own view of its connection to WhatsApp. `name` is host:container, empty when there is but one."""

    name: str
    gateway_status: str
    role: str | None

    @property
    def connected(self) -> bool:
        return self.gateway_status == "connected"


def health(coreapp: Coreapp) -> list[Node]:
    """Every node (with Multiconnect there are several). Raises ApiError."""
    found = json_of(coreapp.server, _call(coreapp, "GET", "/v1/health")).get("health")
    if not isinstance(found, dict):
        raise unexpected(coreapp.server)
    nodes = {"": found} if "gateway_status" in found else found
    if not all(isinstance(node, dict) for node in nodes.values()):
        raise unexpected(coreapp.server)
    return [Node(name, _status(node), node.get("role")) for name, node in nodes.items()]


def _status(node: dict[str, Any]) -> str:
    """A node that cannot be asked has errors instead of a status."""
    return str(node.get("gateway_status") or "; ".join(_reasons(node)) or "unknown")


def _call(
    coreapp: Coreapp, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Call with the token that is kept. When it has expired, log in again (if the password is set) and repeat once."""
    known = token_file.load(coreapp.token_file).get(coreapp.server.url)
    if known is None:
        raise ApiError(f"not logged in to {coreapp.server.url}: {_LOGIN}")

    def attempt(token: str) -> Answer:
        return request(coreapp.server, method, path, bearer(token, str(coreapp.token_file)) | (headers or {}), body)

    answer = attempt(known.token)
    if answer.status == 401:
        known = _login_again(coreapp, known.user)
        answer = attempt(known.token)
    if not answer.success:
        raise _refusal(coreapp, answer, known.token)
    return answer


def _login_again(coreapp: Coreapp, user: str) -> Login:
    password = from_environment(PASSWORD)
    if password is None:
        raise ApiError(f"token expired: {_LOGIN}")
    try:
        return login(coreapp, user, password)
    except ApiError as error:
        raise ApiError(f"token expired, and no new one for {user}: {error.lines[-1]}") from None


def _refusal(coreapp: Coreapp, answer: Answer, *hidden: str) -> ApiError:
    return refusal(coreapp.server, answer, _reasons(json_of(coreapp.server, answer)), hidden)


def _reasons(payload: dict[str, Any]) -> Iterator[str]:
    """`code title: details (href)` of each error, as far as the API gives them."""
    found = payload.get("errors")
    for error in found if isinstance(found, list) else []:
        if isinstance(error, dict):
            head = " ".join(str(error[key]) for key in ("code", "title") if key in error)
            details, href = error.get("details"), error.get("href")
            yield head + (f": {details}" if details else "") + (f" ({href})" if href else "")
