"""Stand-ins for the APIs of the senders: real servers on loopback, in a thread, that remember what they were asked."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner, Result

from workers.cli.main import main
from workers.simulator.sender import Plan

SETTINGS = "/v1/settings/application"
CA = "/v1/certificates/webhooks/ca"

# Names and types of the client's settings. A value is of one type, or one of those listed; a list holds some of them.
TYPES: dict[str, Any] = {
    "webhooks.url": str,
    "webhooks.max_concurrent_requests": (6, 12, 18, 24),
    "webhooks.message.sent": bool,
    "webhooks.message.delivered": bool,
    "webhooks.message.read": bool,
    "sent_status": bool,
    "callback_persist": bool,
    "callback_backoff_delay_ms": int,
    "max_callback_backoff_delay_ms": int,
    "pass_through": bool,
    "media.auto_download": ["audio", "document", "voice", "video", "image", "sticker"],
    "heartbeat_interval": int,
    "unhealthy_interval": int,
    "notify_user_change_number": bool,
    "show_security_notifications": bool,
}
DEFAULTS = {
    "webhooks": {"max_concurrent_requests": 6, "message": {"sent": False, "delivered": True, "read": False}},
    "sent_status": False,
    "callback_persist": True,
    "callback_backoff_delay_ms": 3000,
    "max_callback_backoff_delay_ms": 900000,
    "pass_through": False,
    "media": {"auto_download": ["audio", "document", "voice", "video", "image", "sticker"]},
    "heartbeat_interval": 5,
    "unhealthy_interval": 30,
    "notify_user_change_number": True,
    "show_security_notifications": True,
}


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Stand:
    """A server. `asked` is what came, `forced` what it answers instead of the truth: status, body, more headers."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.forced: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.url = ""

    @property
    def calls(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]

    def force(self, call: str, status: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        self.forced[call] = (status, raw, {name.replace("_", "-"): value for name, value in headers.items()})

    async def handle(self, request: web.BaseRequest) -> web.Response:
        asked = Asked(request.method, request.path, dict(request.headers), await request.read())
        self.asked.append(asked)
        if found := self.forced.get(f"{asked.method} {asked.path}"):
            return web.Response(status=found[0], body=found[1], headers=found[2])
        return self.answer(asked)

    def answer(self, asked: Asked) -> web.Response:
        raise NotImplementedError


def reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def refuse(status: int, code: int, title: str, details: str) -> web.Response:
    error = {"code": code, "title": title, "details": details, "href": "https://developers.example/errors"}
    return reply({"errors": [error], "meta": {"api_status": "stable", "version": "2.53.4"}}, status)


class Coreapp(Stand):
    """The On-Premises client. Its admin has never logged in when `first` is true."""

    def __init__(self) -> None:
        super().__init__()
        self.password = secrets.token_hex(8)
        self.first = False
        self.life = timedelta(days=7)
        self.tokens: dict[str, datetime] = {}
        self.issued: list[str] = []
        self.settings: dict[str, Any] = orjson.loads(orjson.dumps(DEFAULTS))
        self.deaf = False  # takes a change and forgets it
        self.ca: bytes | None = None
        self.health: dict[str, Any] = {"gateway_status": "connected"}

    def plan(self, **more: Any) -> Plan:
        """How it sends callbacks, as it is set up: where to, how many at a time, how long it waits, whom it trusts."""
        settings = dict(leaves(self.settings))
        return Plan(
            url=settings["webhooks.url"],
            form="onprem",
            connections=settings["webhooks.max_concurrent_requests"],
            speed_up=DEFAULTS["callback_backoff_delay_ms"] / settings["callback_backoff_delay_ms"],  # type: ignore[operator]
            ssl=ssl.create_default_context(cadata=self.ca.decode()) if self.ca else None,
            **more,
        )

    def answer(self, asked: Asked) -> web.Response:
        if asked.path == "/v1/users/login":
            return self.login(asked)
        token = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, datetime.min.replace(tzinfo=UTC)) < datetime.now(UTC):
            return refuse(401, 1005, "Access denied", "Invalid credentials")
        answers: dict[str, Callable[[Asked], web.Response]] = {
            f"GET {SETTINGS}": lambda _: reply({"settings": {"application": self.settings}, "meta": {}}),
            f"PATCH {SETTINGS}": self.patch,
            f"GET {CA}": self.download,
            f"POST {CA}": self.upload,
            f"DELETE {CA}": self.delete,
            "GET /v1/health": lambda _: reply({"health": self.health, "meta": {}}),
        }
        found = answers.get(f"{asked.method} {asked.path}")
        return found(asked) if found else refuse(404, 1006, "Resource not found", "URL path not found")

    def login(self, asked: Asked) -> web.Response:
        user, _, password = b64decode(asked.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")
        new = asked.json.get("new_password") if asked.body else None
        if (user, password) != ("admin", self.password):
            return refuse(401, 1005, "Access denied", "Invalid credentials")
        if self.first and not new:
            return refuse(400, 1008, "Required parameter is missing", "new_password")
        self.password, self.first = new or self.password, False
        self.issued.append("token-" + secrets.token_hex(12))
        self.tokens[self.issued[-1]] = datetime.now(UTC) + self.life
        return reply({"users": [{"token": self.issued[-1], "expires_after": str(self.tokens[self.issued[-1]])}]})

    def patch(self, asked: Asked) -> web.Response:
        changes = dict(leaves(asked.json))
        for name, value in changes.items():
            if name not in TYPES or not fits(value, TYPES[name]):
                return refuse(400, 1009, "Parameter value is not valid", name)
        if not str(changes.get("webhooks.url", "https://")).startswith("https://"):
            return refuse(400, 1009, "Parameter value is not valid", "webhooks.url")
        for name, value in changes.items() if not self.deaf else ():
            *parents, last = name.split(".")
            place = self.settings
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return reply(None)

    def upload(self, asked: Asked) -> web.Response:
        if asked.headers["Content-Type"] != "text/plain" or b"BEGIN CERTIFICATE" not in asked.body:
            return refuse(400, 1009, "Parameter value is not valid", "certificate")
        self.ca = asked.body
        return reply(None)

    def download(self, asked: Asked) -> web.Response:
        if self.ca is None:
            return refuse(404, 1006, "Resource not found", "no CA certificate")
        return web.Response(body=self.ca, content_type="text/plain")

    def delete(self, asked: Asked) -> web.Response:
        self.ca = None
        return reply(None)


def leaves(whole: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in whole.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(value, list) and set(value) <= set(wanted)
    return value in wanted if isinstance(wanted, tuple) else type(value) is wanted


class Graph(Stand):
    """The Graph API for one app."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "EAA" + secrets.token_hex(16)
        self.override: dict[str, str | None] = {}

    def answer(self, asked: Asked) -> web.Response:
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(401, "Invalid OAuth access token", "OAuthException", 190)
        _, version, id, *rest = asked.path.split("/")
        assert version == "v24.0"
        if asked.method == "GET" and rest == ["subscribed_apps"]:
            return reply({"data": [self.app(url) for waba, url in self.override.items() if waba == id]})
        whole = asked.json if asked.body else {}
        given = whole if rest == ["subscribed_apps"] else whole["webhook_configuration"]
        if set(given) not in (set(), {"override_callback_uri", "verify_token"}):
            return self.refuse(400, "Invalid parameter", "OAuthException", 100)
        self.override[id] = given.get("override_callback_uri")
        return reply({"success": True})

    def app(self, url: str | None) -> dict[str, Any]:
        app = {"whatsapp_business_api_data": {"id": "6708", "link": "https://apps.example", "name": "Lucky Shrub"}}
        return app | ({"override_callback_uri": url} if url else {})

    def refuse(self, status: int, message: str, type: str, code: int) -> web.Response:
        error = {"message": message, "type": type, "code": code, "error_subcode": 33, "fbtrace_id": "AZfF"}
        return reply({"error": error}, status)


@contextmanager
def serving(stand: Stand, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """Serve it from a thread, on a port of its own; its URL is known from then on."""
    loop = asyncio.new_event_loop()

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(stand.handle), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return runner

    runner = loop.run_until_complete(start())
    stand.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Wa:
    """Runs `wa-ingest` in this process, its standard input no terminal, and remembers all it said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.said.append(result.stdout + result.stderr)
        return result


@pytest.fixture(autouse=True)
def no_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither variables nor a token file of the machine reach a test; tables have room."""
    for name in list(os.environ):
        if name.startswith(("COREAPP_", "GRAPH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture
def wa() -> Wa:
    """Run a command of `wa-ingest`."""
    return Wa()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the certificates of the tests."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file to trust them with."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def coreapp(authority: trustme.CA, wa: Wa, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coreapp]:
    """A Coreapp, named by COREAPP_API. After the test no command may have said a password or a token."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    stand = Coreapp()
    old = stand.password
    with serving(stand, tls):
        monkeypatch.setenv("COREAPP_API", stand.url)
        yield stand
    for secret in (old, stand.password, *stand.issued):
        assert not [said for said in wa.said if secret in said]


@pytest.fixture
def logged_in(wa: Wa, coreapp: Coreapp, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command of `wa-ingest coreapp` after a login; what `asked` shows begins after it."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin")
    assert result.exit_code == 0, result.output
    monkeypatch.delenv("COREAPP_PASSWORD")
    coreapp.asked.clear()
    return lambda *arguments, **options: wa("coreapp", "--ca-file", str(ca_file), *arguments, **options)


@pytest.fixture
def graph(wa: Wa, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    """A Graph API, named by GRAPH_API, its token in GRAPH_TOKEN. After the test no command may have said a token."""
    stand = Graph()
    with serving(stand):
        monkeypatch.setenv("GRAPH_API", f"{stand.url}/v24.0")
        monkeypatch.setenv("GRAPH_TOKEN", stand.token)
        monkeypatch.setenv("WA_VERIFY_TOKEN", "a-verify-token")
        yield stand
    assert not [said for said in wa.said if stand.token in said or "a-verify-token" in said]
