"""The form of notifications, as JSON Schema and TypeScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from tests.docs import paths
from workers.events import Event, schema
from workers.events.parsing import parse

PROGRAM = """
import type { Change, Message, Notification, NotificationList } from "./notification";
export function texts(body: Notification): string[] {
  const values = "entry" in body
    ? body.entry.flatMap((e) => e.changes ?? []).flatMap((c) => (c.field === "messages" ? [c.value] : []))
    : [body];
  const messages: Message[] = values.flatMap((v) => v.messages ?? []);
  return messages.flatMap((m) => (m.type === "text" ? [m.text?.body ?? ""] : []));
}
export function all(list: NotificationList): string[] {
  return list.flatMap(texts);
}
export function told(change: Change): string | undefined {
  const field: string = change.field;
  switch (change.field) {
    case "messages":
      return change.value.messages?.[0]?.id;
    case "account_update":
      return change.value.event;
    case "a_field_of_tomorrow": {
      const value: { wallet?: string } = change.value;
      return value.wallet;
    }
    default:
      return `${change.field}, ${field}`;
  }
}
export const one: Message = { timestamp: %s };
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    form = json.loads(schema.json_schema())
    Draft202012Validator.check_schema(form)
    return Draft202012Validator(form)


def test_what_destinations_get_is_valid(
    validator: Draft202012Validator, message: Callable[..., bytes], status: Callable[..., bytes]
) -> None:
    """What is posted for a message and a status has the form, and what has values of other sorts has not."""
    for body in (message(), status()):
        (event,) = parse(body, 1)
        assert isinstance(event, Event)
        validator.validate(orjson.loads(event.body()))
    assert not validator.is_valid({"messages": [{"id": 7}]})
    assert not validator.is_valid([])


def test_changes_are_open(validator: Draft202012Validator) -> None:
    """A change with a field that is not known has the form, whatever its value; one that is known keeps to its own."""
    values: tuple[tuple[str, Any, bool], ...] = (
        ("a_field_of_tomorrow", {"messages": 7}, True),
        ("a_field_of_tomorrow", "yes", True),
        ("messages", {"messages": [{"type": "of tomorrow", "of tomorrow": 7}]}, True),
        ("messages", {"messages": [{"id": 7}]}, False),
    )
    for field, value, valid in values:
        body = {"entry": [{"changes": [{"field": field, "value": value}]}]}
        assert validator.is_valid(body) is valid, (field, value)


@pytest.mark.skipif(not paths.SHARED.is_dir(), reason="there are no notifications here")
def test_each_event_of_real_notifications_is_valid(validator: Draft202012Validator) -> None:
    """Each event of the samples, alone as a destination gets it, has the form."""
    seen = 0
    for path in sorted((paths.SHARED / "corpus").glob("*__*.json")):
        for event in parse(path.read_bytes(), 1):
            if isinstance(event, Event):
                seen += 1
                errors = [error.message for error in validator.iter_errors(orjson.loads(event.body()))]
                assert errors == [], path.name
    assert seen > 200


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_typescript_compiles(tmp_path: Path) -> None:
    """`tsc --strict` takes the types, what they promise, and refuses what they do not."""
    npm = ["npm", "install", "--no-save", "--silent", "--prefix", str(tmp_path), "typescript@5"]
    if subprocess.run(npm, capture_output=True, timeout=60).returncode:
        pytest.skip("npm cannot get the compiler")
    (tmp_path / "notification.d.ts").write_text(schema.typescript())

    def compiled(value: str) -> Any:
        (tmp_path / "program.ts").write_text(PROGRAM % value)
        tsc = [tmp_path / "node_modules/.bin/tsc", "--strict", "--noEmit", "--target", "es2022", "program.ts"]
        return subprocess.run(tsc, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    good, bad = compiled('"1760000000"'), compiled("true")
    assert good.returncode == 0, good.stdout
    assert "boolean" in bad.stdout
