"""Who may post, and the handshake that registers the webhook. Every guard that is set is enforced."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from aiohttp import web

from ingest.http.answers import Refused
from ingest.settings import Settings, header_secrets, secrets

_SLASHES = re.compile("//+")

Networks = Sequence[IPv4Network | IPv6Network]

_LONGEST_ADDRESS = 128  # with brackets, zone and port: a longer one is none, and not remembered


def _named_hex(digest: bytes) -> list[bytes]:
    return [b"sha256=" + digest.hex().encode()]


def _base64(digest: bytes) -> list[bytes]:
    return [base64.b64encode(digest)]


def _any_hex(digest: bytes) -> list[bytes]:
    return [digest.hex().encode(), *_named_hex(digest)]


SIGNATURES: dict[str, Callable[[bytes], list[bytes]]] = {
    "X-Hub-Signature-256": _named_hex,
    "X-Turn-Hook-Signature": _base64,
    "X-360dialog-Signature": _any_hex,
}
"""Header -> how the HMAC-SHA256 of the untouched bytes under an app secret is written there: as in the Cloud API's
webhooks ("Validating payloads"), by Turn.io, which relays the On-Premises form, and by 360dialog.
"""


class Guards:
    """Decides from a request's head and body whether its sender may post."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = secrets(settings.app_secret)
        self._verify_tokens = secrets(settings.verify_token)
        self._path = _tidied(settings.path)
        self._paths = [f"{settings.path.rstrip('/')}/{s.decode()}".encode() for s in secrets(settings.path_secret)]
        self._credentials = [b"Basic " + base64.b64encode(s) for s in secrets(settings.basic_auth)]
        self._headers = header_secrets(settings.header_secret)
        self._networks = settings.allow_networks
        self._proxies = settings.trusted_proxies
        self._client_name = settings.tls_client_name

    def admit_head(self, request: web.BaseRequest) -> None:
        """Raise Refused when the network, client certificate or path is not allowed."""
        if self._networks and not self._in_networks(request):
            raise Refused(403, "network")
        if self._client_name and not _names(request.get_extra_info("peercert"), self._client_name):
            raise Refused(401, "certificate")
        if not (self._is_ours(request.path) or self._is_ours(_tidied(request.path))):
            raise Refused(404, "path")

    def admit_post(self, headers: Mapping[str, str]) -> None:
        """Raise Refused when a POST lacks the credential; called before its body is read."""
        if self._credentials and not any_equal(headers.get("Authorization", ""), self._credentials):
            raise Refused(401, "credential", WWW_Authenticate='Basic realm="webhook", charset="UTF-8"')
        shown = [any_equal(headers.get(name, ""), values) for name, values in self._headers]
        if shown and not any(shown):
            raise Refused(401, "header")

    def admit_body(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise Refused when a secret is set and the signature is missing, malformed or made with none of the secrets.

        Each secret is tried: several apps may post here, and secrets are rotated. Every signature header that is there
        must match.
        """
        if not self._secrets:
            return
        given = [(headers[name], written) for name, written in SIGNATURES.items() if name in headers]
        if not given:
            raise Refused(401, "signature", "unsigned")
        digests = [hmac.digest(secret, body, "sha256") for secret in self._secrets]
        if not all(any_equal(value, [one for d in digests for one in written(d)]) for value, written in given):
            raise Refused(401, "signature")

    def challenge(self, query: Mapping[str, str]) -> str:
        """The answer to the GET that registers the webhook (`hub.mode=subscribe`). That GET carries no signature.

        Raises Refused when the token is wrong, or none is set.
        """
        if query.get("hub.mode") != "subscribe":
            raise Refused(403, "handshake", "visit")
        if not self._verify_tokens:
            raise Refused(403, "handshake", "no_token")
        if not any_equal(query.get("hub.verify_token", ""), self._verify_tokens):
            raise Refused(403, "handshake")
        return query.get("hub.challenge", "")

    def _is_ours(self, path: str) -> bool:
        return any_equal(path, self._paths) if self._paths else path == self._path

    def _in_networks(self, request: web.BaseRequest) -> bool:
        """Whether the sender is in an allowed network. Behind trusted proxies the sender is the last hop that is not
        one of them: anybody may have written the earlier entries of `X-Forwarded-For`.
        """
        peer = request.get_extra_info("peername")
        hops = [str(peer[0])] if isinstance(peer, tuple) else []
        if self._proxies:
            written = ",".join(request.headers.getall("X-Forwarded-For", ()))
            hops = [hop for hop in written.split(",") if hop.strip()] + hops
        address = None
        while hops:
            address = _address(hops.pop())
            if address is None or not _within(address, self._proxies):
                break
        return address is not None and _within(address, self._networks)


def _tidied(path: str) -> str:
    """A path as it was meant: people add a slash at the end of the URL, or one to a host that ends with one."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def any_equal(given: str, expected: list[bytes]) -> bool:
    """Whether `given` is one of these. Compares each in full, so that the time it takes reveals nothing."""
    text = given.encode("utf-8", "replace")
    matches = [hmac.compare_digest(text, one) for one in expected]
    return any(matches)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as sockets and proxies write it: `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]:567`, `::ffff:1.2.3.4`."""
    text = text.strip()
    return _read_address(text) if len(text) <= _LONGEST_ADDRESS else None


@lru_cache(maxsize=1024)
def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _within(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _names(certificate: Mapping[str, Any] | None, wanted: str) -> bool:
    """Whether a client certificate (as `SSLSocket.getpeercert` gives it) carries that name, as common or DNS name."""
    if not certificate:
        return False
    subject = [part for relative in certificate.get("subject", ()) for part in relative]
    names = [
        value for kind, value in (*subject, *certificate.get("subjectAltName", ())) if kind in ("commonName", "DNS")
    ]
    return wanted.lower() in (name.lower() for name in names)
