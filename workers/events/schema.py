"""The form of notifications, for those who get them in another language: JSON Schema and TypeScript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_INDENT = "  "
# With another type than `never`, `value` would have it beside its own for each `field` that is known.
_OTHER = """\
/**
 * A {name} with a `field` that these types do not know. Whatever its `value` is: say what you expect there, as in
 * `const value: {{ wallet?: string }} = change.value;`. (`never` can be given any type, and leaves the others exact.)
 */
export interface Other{name} {{
  field: string;
  value: never;
}}"""


def json_schema() -> str:
    """JSON Schema, draft 2020-12, of what destinations get."""
    return files("workers.events").joinpath("schema.json").read_text("utf-8")


def typescript() -> str:
    """The same as TypeScript. Each key is optional, because senders leave out what they like."""
    return "\n".join(_lines()) + "\n"


@cache
def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json_schema())
    return found


def _lines() -> Iterator[str]:
    whole = _schema()
    yield f"/** {whole['description']} */"
    yield f"export type {whole['title']} = {_type(whole, 0)};"
    yield ""
    yield "/** What a destination with `bulk` gets. */"
    yield f"export type {whole['title']}List = {whole['title']}[];"
    for name, one in whole["$defs"].items():
        yield ""
        if "description" in one:
            yield f"/** {one['description']} */"
        if "anyOf" in one:
            known = [option for option in one["anyOf"] if "required" in option]
            yield f"export type {name} ="
            yield from (f"{_INDENT}| {_type(option, 1)}" for option in known)
            yield f"{_INDENT}| Other{name};"
            yield from ("", *_OTHER.format(name=name).splitlines())
        else:
            yield f"export interface {name} {_object(one, 0)}"


def _type(one: dict[str, Any], depth: int) -> str:
    if "anyOf" in one:
        return " | ".join(_type(option, depth) for option in one["anyOf"])
    if "$ref" in one:
        return str(one["$ref"]).rpartition("/")[2]
    if "const" in one:
        return json.dumps(one["const"])
    types = one.get("type", [])
    found = dict.fromkeys(_of(one, type_, depth) for type_ in ([types] if isinstance(types, str) else types))
    return " | ".join(found) or "unknown"


def _of(one: dict[str, Any], type_: str, depth: int) -> str:
    if type_ == "object":
        return _object(one, depth) if "properties" in one else "Record<string, unknown>"
    if type_ == "array":
        return f"Array<{_type(one.get('items', {}), depth)}>"
    if type_ == "string" and "examples" in one:
        # Editors complete the known words, and any other is allowed.
        return " | ".join((*map(json.dumps, one["examples"]), "(string & {})"))
    return _PLAIN[type_]


def _object(one: dict[str, Any], depth: int) -> str:
    inside, required = _INDENT * (depth + 1), one.get("required", ())
    lines = []
    for key, value in one.get("properties", {}).items():
        if "description" in value:
            lines.append(f"{inside}/** `{value['description']}` */")
        name = key if key.isidentifier() else json.dumps(key)
        lines.append(f"{inside}{name}{'' if key in required else '?'}: {_type(value, depth + 1)};")
    return "\n".join(("{", *lines, _INDENT * depth + "}"))
