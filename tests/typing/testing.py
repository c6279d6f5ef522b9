"""`workers.testing` to a type checker."""

from __future__ import annotations

from typing import assert_type

from workers import Broken, Event, Handlers, Message
from workers.testing import Called, call


def a_body_or_what_json_makes_of_it(handlers: Handlers) -> None:
    assert_type(call(handlers, b"{}"), list[Called])
    assert_type(call(handlers, {"messages": []}, timeout=1.5, attempt=2), list[Called])


def what_became_of_an_event(called: Called) -> None:
    assert_type(called.event, Event | Broken)
    assert_type(called.handlers, tuple[str, ...])
    assert_type(called.outcome, str)
    assert_type(called.detail, str)
    assert_type(called.handler, str)
    assert_type(called.retry_in, float | None)
    if isinstance(called.event, Message):
        assert_type(called.event.text, str | None)


def what_mypy_must_refuse(handlers: Handlers, called: Called) -> None:
    call(handlers, "{}")  # type: ignore[arg-type]
    call(handlers, b"{}", 1.5)  # type: ignore[call-arg]
    call([], b"{}")  # type: ignore[arg-type]
    called.event.raw  # type: ignore[union-attr]  # noqa: B018
