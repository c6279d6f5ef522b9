"""The lines of `tail` and `up`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len

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


@pytest.mark.parametrize(("attempt", "says"), [(1, "bot.answer"), (2, "try 2: bot.answer")])
def test_what_was_put_off(capsys: pytest.CaptureFixture[str], attempt: int, says: str) -> None:
    """An event that was put off is shown as one that waits; from the second try on the line says which one it is."""
    EventLines().show(EVENT | {"outcome": "put_off", "attempt": attempt})
    shown = capsys.readouterr().out
    assert "  waits  " in shown
    assert shown.endswith(f" ms  {says}\n")
    assert "put_off" not in shown


@pytest.mark.usefixtures("terminal")
def test_an_error_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """On a narrow terminal an error has a line of its own, below each event that failed."""
    lines = EventLines()
    lines.show(FAILED)
    lines.show(FAILED)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert [line.strip() for line in shown[2::2]] == ["ConnectionRefusedError at bot.py:12"] * 2


@pytest.mark.usefixtures("terminal")
def test_handlers_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of handlers for which there is no room stand below the columns, each whole, and what failed below them."""
    names = [f"shop.handlers.customers.{name}" for name in ("answer_when_somebody_asks", "count", "write_to_the_crm")]
    event = FAILED | {"handlers": names, "failed": dict.fromkeys(names, "KeyError at bot.py:12"), "attempt": 2}
    EventLines().show(event)
    headings, line, *below = capsys.readouterr().out.splitlines()
    assert line.split()[-2:] == ["0.0", "ms"]
    assert line.index("0.0 ms") > headings.index("took")
    assert all(line.startswith("          ") and len(line) <= 80 for line in below)
    said = " ".join(line.strip() for line in below)
    assert said == f"try 2: {', '.join(names)} " + "; ".join(f"{name}: KeyError at bot.py:12" for name in names)


@pytest.mark.usefixtures("terminal")
def test_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stay where they are beside characters that take two of them; what steers a terminal does not reach it."""
    lines = EventLines()
    lines.show(EVENT)
    lines.show(EVENT | {"type": "注文", "handlers": ["注文受付\x1b[31m" + 8 * "😀"]})
    _, plain, *wide = capsys.readouterr().out.splitlines()
    assert cell_len(wide[0][: wide[0].index("…0001")]) == plain.index("…0001")
    assert wide[1:] == ["          注文受付\\x1b[31m" + 8 * "😀"]


def test_which_one_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several handlers those that failed are named, each with its error; of one alone the error says enough."""
    several = FAILED | {"handlers": ["analytics", "bot.answer", "crm"], "business": None}
    EventLines().show(several | {"failed": {"analytics": "KeyError", "crm": "answered 500"}})
    EventLines().show(FAILED | {"failed": {"bot.answer": FAILED["error"]}, "business": None})
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  analytics, bot.answer, crm  analytics: KeyError; crm: answered 500")
    assert second.endswith("  bot.answer  ConnectionRefusedError at bot.py:12")


@pytest.mark.parametrize(("outcome", "says"), [("put_off", "handled"), ("failed", "failed")])
def test_what_is_still_owed(capsys: pytest.CaptureFixture[str], outcome: str, says: str) -> None:
    """An event that waits for one handler, and for which others were called, says both."""
    EventLines().show(EVENT | {"outcome": outcome, "handlers": ["analytics", "crm"], "waits_for": ["crm"]})
    words = capsys.readouterr().out.split()
    assert words[4:] == [says, "0.0", "ms", "analytics;", "waits", "for", "crm"]


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
    assert line.endswith("bot.answer  ConnectionRefusedError at bot.py:12  business …0009")


def test_a_handler_that_is_held_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The first event that only waits for a handler has a line, and the first one for which it works again says how
    many there were; an event for which others were called has its line, which says for which one it waits.
    """
    waits = EVENT | {"outcome": "put_off", "handlers": ["crm"], "waits_for": ["crm"]}
    both = EVENT | {"handlers": ["bot.answer", "crm"]}
    lines = FoldedLines()
    for event in (
        both,
        waits,
        waits,
        both | {"outcome": "put_off", "waits_for": ["crm"]},
        EVENT,
        both | {"outcome": "failed", "error": "KeyError", "failed": {"bot.answer": "KeyError"}, "waits_for": ["crm"]},
        both,
        both,
    ):
        lines.show(event)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    head = f"{shown[0].split()[0]} message text …0001"
    assert shown == [
        f"{head} handled 0.0 ms bot.answer, crm",
        f"{head} waits 0.0 ms crm",
        f"{head} handled 0.0 ms bot.answer; waits for crm",
        f"{head} handled 0.0 ms bot.answer",
        f"{head} failed 0.0 ms bot.answer; waits for crm bot.answer: KeyError",
        "crm gets events again, what has waited for it first",
        f"{head} handled 0.0 ms bot.answer, crm",
        f"{head} handled 0.0 ms bot.answer, crm",
    ]


def test_what_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The first exception of a run, and the first dead letter, have below them what shows more; what a destination
    answered has not. With WA_LOG_ERRORS=full the text is in the log."""
    answered = EVENT | {"outcome": "failed", "error": "answered 500"}
    raised = EVENT | {"outcome": "failed", "error": "KeyError at bot.py:12"}
    for full in (False, True):
        lines = FoldedLines(full)
        for event in (answered, raised, raised, raised | {"dead": True}, raised | {"dead": True}):
            lines.show(event)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    words = [line.split()[4] if line.startswith(shown[0][:4]) else line.partition(":")[0] for line in shown]
    failed = ["failed", "failed", "text and traceback", "failed", "dead", "a dead letter", "dead"]
    assert words == [*failed, *(word for word in failed if word != "text and traceback")]
