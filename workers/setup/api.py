"""One call to a sender's HTTP API; whatever goes wrong is a line that names cause and remedy."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Mapping
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import click
import orjson

from ingest.telemetry.printable import printable

SECONDS = 30.0
"""A call that is not answered by then has failed."""


class ApiError(click.ClickException):
    """What stops a command: one line each on standard error, exit status 1."""

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(printable, lines))
        super().__init__("\n".join(self.lines))

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.lines:
            click.echo(f"Error: {line}", file=file, err=file is None)


class Server(NamedTuple):
    """An API. `option` names what its URL comes from, `trust` is the remedy when its certificate is not trusted."""

    url: str
    option: str
    tls: ssl.SSLContext
    trust: str


class Answer(NamedTuple):
    """An HTTP answer, its body whole."""

    status: int
    body: bytes

    @property
    def success(self) -> bool:
        return 200 <= self.status < 300


# The first that fits: the later ones are wider.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "{url} did not answer within {seconds:g} s: see {option}, and that it runs"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of {url} is not trusted ({reason}): {trust}"),
    (aiohttp.ClientSSLError, "{url} does not speak TLS as it should ({reason}): see {option}"),
    (aiohttp.InvalidURL, "{url} is no URL: see {option}"),
    (aiohttp.ClientConnectorError, "{url} is not reachable ({reason}): see {option}, and that it runs"),
    (aiohttp.ClientError, "{url} broke off, or does not speak HTTP ({reason}): see {option}, and that it runs"),
)


def request(server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    """Ask once and read the answer. Redirects are not followed, so that no secret goes elsewhere. Raises ApiError."""
    try:
        return asyncio.run(_request(server, method, path, headers, body))
    except (TimeoutError, aiohttp.ClientError) as error:
        text = next(text for kind, text in _FAILURES if isinstance(error, kind))
        raise ApiError(text.format(**server._asdict(), seconds=SECONDS, reason=_reason(error))) from None


async def _request(server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
        session.request(
            method, server.url + path, headers=headers, data=body, ssl=server.tls, allow_redirects=False
        ) as answer,
    ):
        return Answer(answer.status, await answer.read())


def _reason(error: Exception) -> str:
    """The cause in the words of the system, where aiohttp only wraps it."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno)
    words = (getattr(cause, name, None) for name in ("verify_message", "reason", "strerror", "message"))
    found = next(filter(None, words), None) or type(error).__name__
    return str(found).splitlines()[0].rstrip(" :.")


def json_of(server: Server, answer: Answer) -> dict[str, Any]:
    """The JSON object that was answered, empty for `null` and for nothing. Raises ApiError."""
    if 300 <= answer.status < 400:
        raise ApiError(
            f"{server.url} answered {answer.status}, which is not followed: give the final URL, {server.option}"
        )
    try:
        found = orjson.loads(answer.body.strip() or b"null")
    except orjson.JSONDecodeError:
        raise ApiError(f"{server.url} answered {answer.status} with what is no JSON: see {server.option}") from None
    if not isinstance(found, dict | None):
        raise unexpected(server)
    return found or {}


def unexpected(server: Server) -> ApiError:
    """The error for JSON of another form than the API has."""
    return ApiError(f"{server.url} answered JSON of an unknown form: see {server.option}, and that it is this API")


def refusal(server: Server, answer: Answer, reasons: Iterable[str], hidden: Iterable[str]) -> ApiError:
    """The error for an answer that is no success. An API may quote a secret in its reasons: `hidden` are masked."""
    lines = list(reasons) or [f"{server.url} answered {answer.status} and gave no reason: see {server.option}"]
    for secret in filter(None, hidden):
        lines = [line.replace(secret, "***") for line in lines]
    return ApiError(*lines)


def https_url(url: str, named: str, plain_on: tuple[str, ...] = ()) -> str:
    """That URL, without a slash at its end. `named` is the option it came from; `plain_on` hosts may do without TLS.

    Raises ApiError when it is not https, when it names no host, and when it holds a user or password: they would be on
    the command line and in every list of settings.
    """
    no_url = ApiError(f"{named} is no URL: give one such as https://example.com/webhook")
    try:
        parts = urlsplit(url)
        _ = parts.port, (parts.hostname or "").encode("idna")  # each is read, and refused, when it is asked for
    except ValueError:
        raise no_url from None
    if not parts.hostname or any(c.isspace() or not c.isprintable() for c in url):
        raise no_url
    if parts.username or parts.password:
        raise ApiError(f"{named} holds a user or password: give it without")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in plain_on):
        raise ApiError(f"{named} must be an https URL: {parts.scheme or 'nothing'}:// is not encrypted")
    return url.rstrip("/")
