"""Notification bodies to send: the n-th is always the same one, and no two are alike.

They have the On-Premises form, the shortest there is: the measures are of the pipeline, not of long bodies.
A message is 265 bytes long: about 50 to 65 characters of text, as people write.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

_MESSAGE = (
    '{{"contacts":[{{"profile":{{"name":"{name}"}},"wa_id":"{contact}"}}],'
    '"messages":[{{"from":"{contact}","id":"{id}","text":{{"body":"{text}"}},"timestamp":"{time}","type":"text"}}]}}'
)
_STATUS = '{{"statuses":[{{"id":"{id}","recipient_id":"{contact}","status":"{status}","timestamp":"{time}"}}]}}'

_LENGTH = 265
_CONTACTS = 10_000
_EPOCH = 1_760_000_000
_NAMES = ("Kerry Fisher", "Amara", "Jo Li", "Ana Sofia Ramos", "Dev Patel", "Noor", "Lukas Brandt", "Mei-Ling Chen")
_STATUSES = ("sent", "delivered", "read")
_TEXT = (
    "Hello, could you tell me when my order will arrive? It was to be here by noon and I have to leave soon. Thanks. "
)


def message(n: int, seed: int = 0) -> bytes:
    """The n-th notification of one inbound text message."""
    identity, contact = _identity(n, seed, "message")
    name = _NAMES[contact % len(_NAMES)]
    fields = {"name": name, "contact": f"1631{contact:07}", "id": identity, "time": _EPOCH + n // 1000}
    room = _LENGTH - len(_MESSAGE.format(text="", **fields))
    start = n % len(_TEXT)
    return _MESSAGE.format(text=(_TEXT[start:] + _TEXT)[:room], **fields).encode()


def status(n: int, seed: int = 0) -> bytes:
    """The n-th notification of one status. Each is of another message: none replaces an earlier one."""
    identity, contact = _identity(n, seed, "status")
    kind = _STATUSES[n % len(_STATUSES)]
    return _STATUS.format(id=identity, contact=f"1631{contact:07}", status=kind, time=_EPOCH + n // 1000).encode()


def _identity(n: int, seed: int, kind: str) -> tuple[str, int]:
    """A message's id and the number of its contact, both as good as random."""
    digest = blake2b(f"{seed} {kind} {n}".encode(), digest_size=16).hexdigest().upper()
    return "gBGG" + digest, int(digest[:8], 16) % _CONTACTS


def write(path: str | Path, count: int, kind: str = "message", seed: int = 0) -> None:
    """Write the first `count` bodies of a kind ("message" or "status") and seed to a file, one on each line."""
    body: Callable[[int, int], bytes] = {"message": message, "status": status}[kind]
    with Path(path).open("wb") as file:
        file.writelines(body(n, seed) + b"\n" for n in range(count))
