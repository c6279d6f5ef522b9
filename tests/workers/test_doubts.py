"""What is accepted in a registry but looks like a mistake is told."""

from __future__ import annotations

import json

import pytest

from tests.conftest import CORPUS
from workers import doubts
from workers.events import Event
from workers.events.parsing import parse
from workers.handlers import Handlers


def nobody(event: object) -> None: ...


def test_types_that_do_not_exist() -> None:
    """A name that no type, status or field has is told with the handler, and with the one that may be meant."""
    handlers = Handlers()
    handlers.message("text", "txt")(nobody)
    handlers.status("Delivered", "read")(nobody)
    handlers.change("acount_update")(nobody)
    handlers.call("teleported")(nobody)
    handlers.message()(nobody)
    handlers.profile()(nobody)
    name = f"{__name__}.nobody"
    assert doubts.of(handlers, "bot:handlers") == [
        f"{name}: no message type 'txt' is known; did you mean 'text'?",
        f"{name}: no status 'Delivered' is known; did you mean 'delivered'?",
        f"{name}: no field 'acount_update' is known; did you mean 'account_update'?",
        f"{name}: no call's event 'teleported' is known; if it is not new, it never comes",
    ]


def test_no_handlers() -> None:
    """A registry without handlers is told by its name."""
    (line,) = doubts.of(Handlers(), "bot:handlers")
    assert line.startswith("WA_HANDLERS=bot:handlers has no handlers")


@pytest.mark.skipif(not CORPUS.exists(), reason="the sample bodies lie beside the project, not in it")
def test_what_comes_is_known() -> None:
    """Nothing that a sample body holds is doubted, but for what one of them has invented."""
    unknown = set()
    for path in sorted(CORPUS.glob("*.json")):
        for event in parse(path.read_bytes(), 0) if isinstance(json.loads(path.read_bytes()), dict) else ():
            if isinstance(event, Event) and event.subject not in doubts.KNOWN.get(event.kind, {event.subject}):
                unknown.add((event.kind, event.subject))
    assert unknown <= {("change", None), ("message", None), ("status", None), ("status", "foo")}
