"""The lines of `tail` and `up`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from workers.cli.event_lines import EventLines
from workers.cli.folding import FoldedLines

EVENT: dict[str, Any] = {
    "at": "",  # see `now`
    "kind": "message",
    "type": "text",
    "contact": "…0001",
    "business": None,
    "outcome": "handled",
    "error": "",
    "ms": 0.0,
    "attempt": 1,
    "handlers": ["bot.answer"],
}
FAILED = EVENT | {"outcome": "failed", "error": "ConnectionRefusedError at bot.py:12", "business": "…0009"}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events are of now: those of another day would show its date."""
    for event in (EVENT, FAILED):
        monkeypatch.setitem(event, "at", datetime.now(UTC).isoformat())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is taken for a terminal of 80 columns without colours."""
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("attempt", "says"), [(1, "waits"), (2, "waits (try 2)")])
def test_what_was_put_off(capsys: pytest.CaptureFixture[str], attempt: int, says: str) -> None:
    """An event that was put off is shown as one that waits."""
    EventLines().show(EVENT | {"outcome": "put_off", "attempt": attempt})
    shown = capsys.readouterr().out
    assert f"  {says}  " in shown
    assert "put_off" not in shown


@pytest.mark.usefixtures("terminal")
def test_an_error_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """On a narrow terminal an error has a line of its own, which is not repeated below each of many equal failures, but
    is there again when another one was in between, and after a while."""
    lines = EventLines()
    for event in (FAILED, FAILED, FAILED | {"error": "KeyError at bot.py:13, in a line that is long"}, *[FAILED] * 21):
        lines.show(event)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    below = [n for n, line in enumerate(shown) if line.startswith("          ")]
    assert [shown[n].split()[0] for n in below] == [
        "ConnectionRefusedError",
        "KeyError",
        *["ConnectionRefusedError"] * 2,
    ]
    assert below == [2, 5, 7, 28]


@pytest.mark.usefixtures("terminal")
def test_headings(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal the first event has headings above it, each above its column."""
    lines = EventLines()
    lines.show(EVENT)
    lines.show(EVENT)
    headings, first, second = capsys.readouterr().out.splitlines()
    assert headings.split() == ["time", "event", "contact", "outcome", "took", "handler"]
    assert first == second
    for name, value in {
        "event": "message text",
        "contact": "…0001",
        "outcome": "handled",
        "handler": "bot.ans",
    }.items():
        assert first[headings.index(name) :].startswith(value)


def test_an_error_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Elsewhere an event is one line, however long."""
    EventLines().show(FAILED)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("bot.answer  ConnectionRefusedError at bot.py:12  to …0009")


def test_a_handler_that_is_held_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The first event that waits for a handler has a line, and the first one for which it works again says how many
    there were; what other handlers of these events did is shown."""
    waits = EVENT | {"outcome": "put_off", "handlers": ["crm"], "waits_for": ["crm"]}
    both = EVENT | {"handlers": ["bot.answer", "crm"]}
    lines = FoldedLines()
    for event in (
        both,
        waits,
        waits,
        both | {"outcome": "put_off", "waits_for": ["crm"]},
        EVENT,
        both | {"outcome": "failed", "error": "KeyError", "waits_for": ["crm"]},
        both,
        both,
    ):
        lines.show(event)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    head = f"{shown[0].split()[0]} message text …0001"
    assert shown == [
        f"{head} handled 0.0 ms bot.answer, crm",
        f"{head} waits 0.0 ms crm",
        f"{head} handled 0.0 ms bot.answer",
        f"{head} handled 0.0 ms bot.answer",
        f"{head} failed 0.0 ms bot.answer, crm KeyError",
        "… 3 more waited for crm",
        f"{head} handled 0.0 ms bot.answer, crm",
        f"{head} handled 0.0 ms bot.answer, crm",
    ]
