"""workers/events/schema.json, made from the notifications that are known: `python -m tests.docs.schema --write`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tests.docs import paths
from workers.events import schema

_ELEMENTS = {
    "messages": "Message",
    "message_echoes": "Message",
    "statuses": "Status",
    "calls": "Call",
    "user_preferences": "Preference",
    "contacts": "Contact",
    "history": "HistoryChunk",
}
_NAMES: dict[tuple[str, str], str] = {
    **{("Value", key): name for key, name in _ELEMENTS.items()},
    ("Value", "metadata"): "Metadata",
    ("Value", "standby"): "Value",
    ("Thread", "messages"): "Message",
    ("HistoryChunk", "threads"): "Thread",
    ("Message", "contacts"): "Card",
    ("Message", "context"): "Context",
    ("Message", "interactive"): "Interactive",
    ("Message", "order"): "Order",
    ("Message", "location"): "Place",
    ("Message", "referral"): "Referral",
    ("Message", "system"): "System",
    ("Message", "reaction"): "Reaction",
    ("Message", "message"): "Message",
    ("Edit", "message"): "Message",
    ("Message", "edit"): "Edit",
    **{("Message", key): "Media" for key in ("image", "video", "audio", "voice", "document", "sticker")},
    ("Status", "pricing"): "Pricing",
    ("Status", "conversation"): "Conversation",
    ("Status", "payment"): "Payment",
}
"""The definition of what stands at a key of another one. What stands at `errors` is a Fault everywhere."""

_OF_ELEMENTS = {
    *("messages", "calls", "history", "message_echoes", "smb_message_echoes", "standby", "user_preferences"),
    "user_id_update",
}
"""Fields of which the value has the arrays of elements."""

_WORDS = {"type", "status", "event", "direction", "call_type"}
"""Keys of which the values that are known are told. The sets are open."""

_WHOLE = {"Change.value", "Message.contact", "Message.contacts_shared"}
"""Attributes that give what is around a value, as sent: they say nothing of it."""

_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (dict, "object"),
    (list, "array"),
)


class Shape:
    """What was seen at one place."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.of: set[str] = set()  # definitions
        self.properties: dict[str, Shape] = {}
        self.items: Shape | None = None
        self.words: set[str] = set()
        self.attribute = ""

    def at(self, key: str) -> Shape:
        return self.properties.setdefault(key, Shape())

    def written(self) -> dict[str, Any]:
        """As JSON Schema."""
        found: dict[str, Any] = {}
        if self.attribute:
            found["description"] = self.attribute
        plain = sorted(self.types)
        if self.of:
            (name,) = self.of
            refs: list[dict[str, Any]] = [{"$ref": f"#/$defs/{name}"}, *({"type": one} for one in plain)]
            return {**found, **(refs[0] if len(refs) == 1 else {"anyOf": refs})}
        if plain:
            found["type"] = plain[0] if len(plain) == 1 else plain
        if self.words:
            found["examples"] = sorted(self.words)
        if self.properties:
            found["properties"] = {key: shape.written() for key, shape in sorted(self.properties.items())}
        if self.items:
            found["items"] = self.items.written()
        return found


class Learning:
    """The definitions that come of the notifications."""

    def __init__(self, attributes: dict[str, str]) -> None:
        self.definitions: dict[str, Shape] = {}
        self._attributes = attributes
        self.fields: dict[str, str] = {}

    def define(self, name: str) -> Shape:
        return self.definitions.setdefault(name, Shape())

    def notification(self, body: dict[str, Any]) -> None:
        if "entry" not in body:
            self._object(self.define("Value"), body, "Value", "")
            return
        self.define("Cloud").at("object").types.add("string")
        for entry in body["entry"] if isinstance(body["entry"], list) else ():
            for key, value in entry.items():
                if key != "changes":
                    self._value(self.define("Entry").at(key), value, "Entry", key, f"entry[].{key}")
            for change in entry.get("changes", ()):
                self._change(change)

    def _change(self, change: dict[str, Any]) -> None:
        field, value = change.get("field"), change.get("value")
        if not isinstance(field, str) or not isinstance(value, dict):
            return
        name = "Value" if field in _OF_ELEMENTS else f"{_pascal(field)}Value"
        self.fields[field] = name
        self._object(self.define(name), value, name, "entry[].changes[].value")

    def _object(self, shape: Shape, value: dict[str, Any], name: str, path: str) -> None:
        shape.types.add("object")
        for key, item in value.items():
            self._value(shape.at(key), item, name, key, f"{path}.{key}".removeprefix("."))

    def _value(self, shape: Shape, value: Any, parent: str, key: str, path: str) -> None:
        if (attribute := self._attributes.get(path, "")) not in _WHOLE:
            shape.attribute = shape.attribute or attribute
        name = "Fault" if key == "errors" else _NAMES.get((parent, key), "")
        if isinstance(value, list):
            shape.types.add("array")
            shape.items = shape.items or Shape()
            for item in value:
                if isinstance(item, dict) and name:
                    shape.items.of.add(name)
                    self._object(self.define(name), item, name, f"{path}[]")
                else:
                    self._value(shape.items, item, parent, f"{key}[]", f"{path}[]")
        elif isinstance(value, dict):
            if name:
                shape.of.add(name)
                self._object(self.define(name), value, name, path)
            else:
                self._object(shape, value, f"{parent}.{key}", path)
        else:
            shape.types.add(_type_of(value))
            if isinstance(value, str) and key in _WORDS and re.fullmatch(r"[a-z_]{1,40}|[A-Z_]{1,40}", value):
                shape.words.add(value)


def _type_of(value: Any) -> str:
    return next((name for type_, name in _TYPES if isinstance(value, type_)), "null")


def _pascal(name: str) -> str:
    return "".join(part.title() for part in re.split(r"[^A-Za-z0-9]+", name))


_ABOUT = {
    "Value": "What stands in the value of a change; in the On-Premises form, the body itself.",
    "Message": "`Message` in Python.",
    "Status": "`Status` in Python.",
    "Call": "`Call` in Python.",
    "Preference": "`Preference` in Python.",
    "Fault": "`Fault`, and as an event of its own `Error`, in Python.",
    "Contact": "`contact` of an event in Python.",
}


def made() -> bytes:
    """The file as it must be."""
    given, *_ = paths.attributes_by_path()
    learning = Learning(given)
    for body in _sound():
        learning.notification(body)
    definitions = {name: shape.written() for name, shape in sorted(learning.definitions.items())}
    for name, about in _ABOUT.items():
        definitions[name] = {"description": about, **definitions[name]}
    definitions["Entry"]["properties"]["changes"] = {"type": "array", "items": {"$ref": "#/$defs/Change"}}
    definitions["Cloud"]["properties"]["entry"] = {"type": "array", "items": {"$ref": "#/$defs/Entry"}}
    definitions["Cloud"] |= {"type": "object", "required": ["entry"]}
    definitions["Entry"] |= {"type": "object"}
    definitions["Change"] = {
        "description": "`field` says what stands in `value`. There are more than these: any other `field` is allowed.",
        "anyOf": [
            {
                "type": "object",
                "properties": {"field": {"const": field}, "value": {"$ref": f"#/$defs/{name}"}},
                "required": ["field", "value"],
            }
            for field, name in sorted(learning.fields.items())
        ]
        + [{"type": "object", "properties": {"field": {"type": "string", "not": {"enum": sorted(learning.fields)}}}}],
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Notification",
        "description": "What a destination gets: one event a notification, in the sender's own form. With `bulk` it "
        "gets an array of them. Nothing is sure to be there, and senders add keys.",
        "anyOf": [{"$ref": "#/$defs/Cloud"}, {"$ref": "#/$defs/Value", "not": {"required": ["entry"]}}],
        "$defs": dict(sorted(definitions.items())),
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _sound() -> Iterator[dict[str, Any]]:
    """Bodies as senders mean them: the cases are damaged on purpose, and so are some samples."""
    for path in sorted((paths.SHARED / "corpus").glob("*__*.json")):
        if path.name.startswith("malformed__"):
            continue
        body = orjson.loads(path.read_bytes())
        if isinstance(body, dict):
            yield body


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (Path(schema.__file__).parent / "schema.json").write_bytes(made())
    else:
        print(made().decode(), end="")
