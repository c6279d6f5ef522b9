"""What a body says: JSON, read strictly, and leniently once where that fails; without what relays put around it.

The receiver and the workers read alike: what the one finds in a body and places, the others find in it and handle.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

MOST = 1000
"""Notifications in a list around them, at most."""

_DEPTH = 3  # lists and strings around a notification
_PLATFORMS = frozenset(
    {"ad_account", "application", "certificate_transparency", "instagram", "page", "permissions", "threads", "user"}
)
_NAMES = {type(None): "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}


class Unreadable(ValueError):
    """The body holds no JSON object. The message says what it is instead, and quotes nothing of it."""


def read(body: bytes, lenient: bool = True) -> list[dict[str, Any]]:
    """The notifications in a body, nearly always one: the body itself. Raises Unreadable.

    Relays put notifications into a list, or as text into a string, and Meta's dashboard sends a change without what is
    around it. `lenient` reads what is nearly JSON, which takes five times as long.
    """
    tree = _loads(body, lenient)
    if isinstance(tree, dict) and ("value" not in tree or "entry" in tree):
        return [tree]
    return _unwrapped(tree, lenient, _DEPTH)


def platform(notification: dict[str, Any]) -> str | None:
    """The other platform of Meta's that sent this: an app's callback gets what it subscribed to of all of them."""
    found = notification.get("object")
    return found if isinstance(found, str) and found in _PLATFORMS else None


def name_of(value: Any) -> str:
    """What a JSON value is, for a person."""
    return _NAMES.get(type(value), "a number")


def _loads(text: bytes, lenient: bool) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if lenient:
            return _read_leniently(text, error.pos)
        raise Unreadable(f"not JSON at character {error.pos}") from None


def _unwrapped(tree: Any, lenient: bool, depth: int) -> list[dict[str, Any]]:
    if isinstance(tree, dict):
        bare = isinstance(tree.get("value"), dict) and isinstance(tree.get("field"), str) and "entry" not in tree
        return [{"entry": [{"changes": [tree]}]}] if bare else [tree]
    if depth and isinstance(tree, str) and tree.lstrip().startswith(("{", "[")):
        return _unwrapped(_loads(tree.encode(), lenient), lenient, depth - 1)
    if depth and isinstance(tree, list) and 0 < len(tree) <= MOST:
        found = [notification for part in tree for notification in _unwrapped(part, lenient, depth - 1)]
        if len(found) <= MOST:
            return found
    raise Unreadable(f"{name_of(tree)}, not an object")


def _read_leniently(body: bytes, position: int) -> Any:
    """JSON with a byte order mark, raw control characters, halves of emoji or other bytes than UTF-8.

    Python's own reader takes these. What it gives is written and read again, so that numbers and text are as strict
    reading gives them: half an emoji, which is no text, becomes U+FFFD.
    """
    try:
        tree = json.loads(_text(body).removeprefix("\ufeff"), strict=False)
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
        return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        raise Unreadable(f"not JSON at character {position}") from None


def _text(body: bytes) -> str:
    """UTF-8, or what a sender means that knows one byte a character. Damaged characters become U+FFFD."""
    text = body.decode("utf-8", "replace")
    return body.decode("cp1252", "replace") if text.replace("\ufffd", "").isascii() and "\ufffd" in text else text
