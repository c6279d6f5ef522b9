"""Who may post, and the handshake that registers the webhook."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

from ingest.settings import Settings

SIGNATURE = "X-Hub-Signature-256"


class Guards:
    """Decides from a request's head and body whether its sender may post."""

    def __init__(self, settings: Settings) -> None:
        secrets = settings.app_secret.get_secret_value() if settings.app_secret else ""
        self._secrets = [part.strip().encode() for part in secrets.split(",") if part.strip()]
        self._verify_token = settings.verify_token.get_secret_value().encode() if settings.verify_token else None

    def admits(self, headers: Mapping[str, str], body: bytes) -> bool:
        """True when no secret is set, or the signature fits one of them.

        The signature is `sha256=` and the hex HMAC-SHA256 of the untouched bytes under the app secret (Cloud API
        webhooks). Each secret is tried: a POST belongs to one app, and secrets are rotated.
        """
        if not self._secrets:
            return True
        given = headers.get(SIGNATURE, "").encode("utf-8", "replace")
        # Every secret is compared in full: the time says nothing about which one fits.
        fits = [
            hmac.compare_digest(given, b"sha256=" + hmac.new(s, body, sha256).hexdigest().encode())
            for s in self._secrets
        ]
        return any(fits)

    def challenge(self, query: Mapping[str, str]) -> str | None:
        """The answer to the GET that sets the webhook up (`hub.mode=subscribe`), or None when it is not permitted."""
        token = query.get("hub.verify_token", "").encode("utf-8", "replace")
        if self._verify_token is None or query.get("hub.mode") != "subscribe":
            return None
        return query.get("hub.challenge", "") if hmac.compare_digest(token, self._verify_token) else None
