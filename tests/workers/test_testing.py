"""Handlers without Redis: `workers.testing`, `wa-ingest handlers` and `wa-ingest call`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers import Discard, Error, Handlers, Message, Reject, RetryIn, Snooze, Status
from workers.testing import call

ROOT = Path(__file__).parents[2]
BOT = """
from workers import Handlers, Message, Status

handlers = Handlers()


@handlers.message("text", "button")
async def answer(message: Message) -> None:
    print("answered", message.text)


@handlers.status()
def on_status(status: Status) -> None:
    raise ValueError("no database")
"""
HELLO = {"from": "15550001", "id": "m1", "timestamp": "1700000000", "type": "text", "text": {"body": "Hello"}}
BODY = {
    "messages": [HELLO],
    "statuses": [{"id": "s1", "status": "read", "timestamp": "1700000000", "recipient_id": "15550001"}],
}


def registry() -> tuple[Handlers, list[str]]:
    """Handlers of every kind of end, and what they were called with."""
    handlers, seen = Handlers(), []

    @handlers.message("text")
    async def answer(message: Message) -> None:
        seen.append(f"{message.text} {message.attempt}")

    @handlers.status()
    def on_status(status: Status) -> None:
        raise {"sent": Discard("old"), "read": RetryIn(7), "failed": Reject("gone")}.get(
            status.status or "", KeyError("x")
        )

    @handlers.error()
    def on_error(error: Error) -> None: ...

    return handlers, seen


def test_outcomes() -> None:
    """Each event ends as it would in a worker, in the order of the body, and names its handlers."""
    handlers, seen = registry()
    statuses = [{"id": "s", "status": status} for status in ("sent", "read", "failed", "odd")]
    found = call(handlers, BODY | {"statuses": statuses, "errors": [{"code": 1}, 5]}, attempt=3)
    assert [one.outcome for one in found] == [
        "handled",
        "discarded",
        "failed",
        "rejected",
        "failed",
        "handled",
        "malformed",
    ]
    assert seen == ["Hello 3"]
    assert [one.retry_in for one in found] == [None, None, 7.0, None, None, None, None]
    assert found[0].handlers[0].endswith("answer")
    assert found[4].handler.endswith("on_status")
    assert "KeyError" in found[4].detail
    assert (found[1].detail, found[1].handler.endswith("on_status")) == ("old", True)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [(b"no JSON", "unreadable"), (b"{}", "unknown_form"), ({"messages": [{"type": "x"}]}, "unhandled")],
)
def test_what_has_no_handler(body: Any, outcome: str) -> None:
    """What is no event, and an event that nobody wants, are told apart."""
    (found,) = call(registry()[0], body)
    assert (found.outcome, found.handlers) == (outcome, ())


def test_the_page_tells_all_outcomes() -> None:
    """docs/handlers.md has a table of just the outcomes that there are."""
    handlers, _ = registry()
    handlers.message("image")(_snooze)
    statuses = [{"id": "s", "status": status} for status in ("sent", "failed", "odd")]
    messages = [HELLO, HELLO | {"type": "image"}, HELLO | {"type": "video"}, 5]
    foreign = {"object": "page", "entry": []}
    bodies: list[Any] = [{"messages": messages, "statuses": statuses}, b"no JSON", b"{}", foreign]
    found = {one.outcome for body in bodies for one in call(handlers, body)}
    page = (ROOT / "docs" / "handlers.md").read_text()
    rows = page.partition("| `outcome` | when |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted([*found, "fault"])  # no body is known for which that happens


def _snooze(message: Message) -> None:
    raise Snooze(5)


def test_time_out() -> None:
    """A handler that does not return in time failed."""
    handlers = Handlers()

    @handlers.message()
    def forever(message: Message) -> None:
        while True:
            pass

    (found,) = call(handlers, {"messages": [HELLO]}, timeout=0.1)
    assert found.outcome == "failed"
    assert "not done after 0.1 s" in found.detail


def wa(folder: Path, *arguments: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder with `bot.py`, its settings WA_HANDLERS alone."""
    (folder / "bot.py").write_text(BOT)
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WA_HANDLERS": "bot:handlers"} | env,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_handlers_command(tmp_path: Path) -> None:
    """`handlers` lists what is registered, and where; Redis is not asked for."""
    found = json.loads(wa(tmp_path, "handlers", "--json").stdout)
    assert [(one["kind"], one["wants"], one["handler"], one["is_async"]) for one in found] == [
        ("message", ["button", "text"], "bot.answer", True),
        ("status", [], "bot.on_status", False),
    ]
    assert found[0]["defined"] == f"{tmp_path / 'bot.py'}:7"
    shown = wa(tmp_path, "handlers", COLUMNS="150")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "bot.answer" in shown.stdout


def test_call_command(tmp_path: Path) -> None:
    """`call` shows what each event came to, from a file and from standard input; it exits 1 when one failed."""
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    done = wa(tmp_path, "call", "body.json", COLUMNS="150")
    assert done.returncode == 1
    assert "answered Hello" in done.stdout
    assert "ValueError: no database" in done.stdout
    assert done.stderr == "Error: 1 of 2 events did not end well, see above\n"
    good = wa(tmp_path, "call", "-", "--json", text=json.dumps({"messages": [HELLO]}))
    assert good.returncode == 0
    (one,) = json.loads(good.stdout.partition("\n")[2])
    assert (one["event"], one["subject"], one["outcome"], one["handlers"]) == (
        "message",
        "text",
        "handled",
        ["bot.answer"],
    )


def test_call_command_shows_lines(tmp_path: Path) -> None:
    """Where the text of an exception has lines, so has what `call` shows."""
    (tmp_path / "other.py").write_text(
        "from workers import Handlers\nhandlers = Handlers()\n"
        "@handlers.message()\ndef f(message): raise ValueError('no table\\nHINT: make\\x1b[1m one')\n"
    )
    body = json.dumps({"messages": [HELLO]})
    shown = wa(tmp_path, "call", "-", text=body, WA_HANDLERS="other:handlers", COLUMNS="90")
    assert [row.split() for row in shown.stdout.splitlines()][-2:] == [
        ["ValueError:", "no", "table"],
        ["HINT:", "make\\x1b[1m", "one", "(other.py:4)"],
    ]


@pytest.mark.parametrize(
    ("handlers", "says"),
    [
        ("nothing:handlers", "there is no module 'nothing'"),
        ("bot:other", "is no `workers.Handlers()`"),
        ("broken:h", "the module fails: "),
    ],
)
def test_wrong_handlers(tmp_path: Path, handlers: str, says: str) -> None:
    """Handlers that cannot be loaded are one line."""
    (tmp_path / "broken.py").write_text("1 / 0")
    done = wa(tmp_path, "handlers", WA_HANDLERS=handlers)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_handler_is_registered_with(tmp_path: Path) -> None:
    """`handlers` shows rate, concurrency, order and bulk; a wrong one is one line; without Redis nobody waits."""
    handlers, seen = Handlers(), []
    handlers.message("text", rate="1/h", concurrency=1)(lambda message: seen.append(message.id))
    assert [one.outcome for _ in range(3) for one in call(handlers, {"messages": [HELLO]})] == ["handled"] * 3

    (tmp_path / "other.py").write_text(
        "from workers import Handlers\nhandlers = Handlers()\n"
        "@handlers.message('text', rate='90/m', concurrency=4, strict_order=True)\nasync def f(m): ...\n"
    )
    (row,) = json.loads(wa(tmp_path, "handlers", "--json", WA_HANDLERS="other:handlers").stdout)
    assert (row["rate"], row["concurrency"], row["strict_order"]) == (1.5, 4, True)
    assert (
        "async, 90/m, 4 at a time, strict order"
        in wa(tmp_path, "handlers", COLUMNS="200", WA_HANDLERS="other:handlers").stdout
    )
    (tmp_path / "other.py").write_text(
        "from workers import Handlers\nhandlers = Handlers()\n"
        "@handlers.message(bulk=500, linger=0.2)\ndef many(messages): print(len(messages), 'messages')\n"
    )
    (row,) = json.loads(wa(tmp_path, "handlers", "--json", WA_HANDLERS="other:handlers").stdout)
    assert (row["bulk"], row["linger"]) == (500, 0.2)
    shown = wa(tmp_path, "handlers", COLUMNS="200", WA_HANDLERS="other:handlers")
    assert "lists of 500, waits 0.2 s" in shown.stdout
    body = json.dumps({"messages": [HELLO, HELLO | {"id": "m2"}]})
    assert "2 messages" in wa(tmp_path, "call", "-", text=body, WA_HANDLERS="other:handlers").stdout
    (tmp_path / "other.py").write_text("from workers import Handlers\nHandlers().error(rate='fast')\n")
    done = wa(tmp_path, "handlers", WA_HANDLERS="other:handlers")
    assert done.returncode == 1
    assert "@handlers.error: rate='fast' is no rate" in done.stderr
    assert len(done.stderr.splitlines()) == 1
