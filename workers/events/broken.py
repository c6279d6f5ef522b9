"""What cannot become an event."""

from __future__ import annotations

FOREIGN = "foreign"
"""The reason of a notification of another platform of Meta's (`instagram`, `page`, `user`): it is counted, no more."""


class Broken:
    """What cannot become an event. It is answered 200 like anything else and becomes a dead letter at once.

    `reason`: `unreadable` (not a JSON object) · `unknown_form` (an object of neither sender's form) ·
    `malformed` (one part of a notification, the rest of which is fine) · `foreign` · `fault` (reading it failed for a
    reason that nobody foresaw: a bug of this program). `kind` says what it would have been:
    message, status, error, change or notification. `body` is the notification as received, or, if malformed,
    one that holds the broken part alone. `detail` names the fault without quoting content.
    """

    __slots__ = ("attempt", "body", "detail", "kind", "reason", "received_ms")

    def __init__(self, reason: str, kind: str, body: bytes, detail: str, received_ms: int, attempt: int = 1) -> None:
        self.reason = reason
        self.kind = kind
        self.body = body
        self.detail = detail
        self.received_ms = received_ms
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"<Broken {self.reason} {self.kind}>"
