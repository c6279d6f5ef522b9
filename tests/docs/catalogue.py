"""The bodies in docs/events.md, and what is read of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from tests.docs import paths
from workers.events import Event
from workers.events.event import label_of
from workers.events.parsing import parse

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

_LONGEST = 100  # characters of a value in the table, and of a text in a body
_BODY = re.compile(r"```json\n(\{.*?\n\})\n```", re.DOTALL)
_WIDTH = 112
_NOT_SHOWN = paths.NOT_READ | {"subject", "kind", "source", "headers", "profile", "news", "contact", "content"}
_NOT_REAL = {"foo"}
"""What a sample makes up."""


def shown(cls: type[Event]) -> str:
    """For each type of this kind of event a notification, and what its attributes give."""
    parts = []
    for body in _bodies().get(cls.kind, ()):
        (event,) = _events(body)
        parts.append(
            f"<details><summary><code>{_title(event)}</code></summary>\n\n"
            f"```json\n{body}\n```\n\n| | |\n|---|---|\n{''.join(_rows(event))}\n</details>\n"
        )
    return "\n".join(["", *parts]) if parts else ""


def _title(event: Event) -> str:
    found = label_of(event)
    if more := getattr(event, "interactive_type", None):
        found += f", {more}"
    if event.kind == "message" and getattr(event, "direction", "in") == "out":
        found += ", of the business"
    if getattr(event, "standby", False):
        found += ", in standby"
    if getattr(event, "history", False):
        found += ", of the history"
    return found if event.source == "cloud" else f"{found}, On-Premises form"


def _rows(event: Event) -> Iterator[str]:
    for name in dir(type(event)):
        if name[0] != "_" and name not in _NOT_SHOWN and isinstance(getattr(type(event), name), property):
            value = getattr(event, name)
            if value is not None and value is not False and value != () and value != "":
                yield f"| `{name}` | {_written(value)} |\n"


def _written(value: Any) -> str:
    if isinstance(value, datetime):
        return f"`{value.isoformat()}`"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        text = ", ".join(f"{name}={item!r}" for name, item in fields.items() if item is not None)
        return _code(f"{type(value).__name__}({text})")
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return ", ".join(map(_written, value))
    return _code(repr(value))


def _code(text: str) -> str:
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"`{text}`".replace("|", "\\|")


@cache
def _bodies() -> dict[str, list[str]]:
    """By kind. Where there are no notifications to choose from, those that are on the page."""
    found = list(_chosen()) if paths.SHARED.is_dir() else _BODY.findall(PAGE.read_text())
    by_kind: dict[str, list[str]] = {}
    for body in found:
        (event,) = _events(body)
        by_kind.setdefault(event.kind, []).append(body)
    return by_kind


def _events(body: str) -> list[Event]:
    return [event for event in parse(body.encode(), 1) if isinstance(event, Event)]


def _chosen() -> Iterator[str]:
    """Of each kind and type the shortest one, as it would come alone."""
    shortest: dict[tuple[str, ...], str] = {}
    for path in sorted((paths.SHARED / "corpus").glob("*__*.json")):
        for event in _events(path.read_text("utf-8", "replace")):
            tree = _cut(orjson.loads(event.body()))
            body = _laid_out(tree)
            if label_of(event) in {"?", *_NOT_REAL} or len(_events(body)) != 1:
                continue
            key = event.kind, _title(_events(body)[0]).removesuffix(", On-Premises form")
            known = shortest.get(key)
            if known is None or (_is_cloud(body), -len(body)) > (_is_cloud(known), -len(known)):
                shortest[key] = body
    for _, body in sorted(shortest.items()):
        yield body


def _is_cloud(body: str) -> bool:
    return '"entry"' in body


def _laid_out(tree: Any, depth: int = 0) -> str:
    """JSON with as much on a line as fits."""
    line = re.sub(r"\n *", " ", orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode())
    if (depth and len(line) + 2 * depth <= _WIDTH) or not isinstance(tree, dict | list) or not tree:
        return line
    if isinstance(tree, list) and len(tree) == 1:
        return f"[{_laid_out(tree[0], depth)}]"
    inside = "  " * (depth + 1)
    if isinstance(tree, list):
        parts = [_laid_out(item, depth + 1) for item in tree]
    else:
        parts = [f"{orjson.dumps(key).decode()}: {_laid_out(item, depth + 1)}" for key, item in tree.items()]
    first, last = "{}" if isinstance(tree, dict) else "[]"
    return f"{first}\n{inside}" + f",\n{inside}".join(parts) + f"\n{'  ' * depth}{last}"


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, str) and len(value) > _LONGEST and not value.startswith("{"):
        return f"{value[: _LONGEST - 1]}…"
    return value
