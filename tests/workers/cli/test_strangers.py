"""What strangers wrote, on the operator's terminal: it steers nothing, and nothing in it is markup."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from redis import Redis

from ingest.store import keys
from tests.workers.cli.terminal import on_terminal
from workers.cli.main import main

EVIL = "\x1b]0;evil\x07\x9b31m\x7f\u202e\u2066\u2028\r\n[red]red[/red] [link=https://evil.org]here[/link] \U000e0041"
"""Titles and colours (in their one-byte form, too), reversed text, rich's markup, hidden text."""

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\U000e0041]")

HANDLERS = """
from workers import Handlers, Reject

handlers = Handlers()

@handlers.message()
def on_message(message):
    raise Reject(message.text)
"""

BODY = orjson.dumps({"messages": [{"from": EVIL, "id": EVIL, "type": EVIL, "text": {"body": EVIL}}]})


@pytest.fixture
def letter(redis: Redis) -> str:
    """The LANE/ID of a dead letter in which a stranger wrote whatever can be written."""
    fields: Any = {
        "reason": EVIL,
        "kind": EVIL,
        "handler": EVIL,
        "detail": EVIL,
        "attempt": 8,
        "received": 1,
        "queue": EVIL,
    }
    return f"messages/{redis.xadd(keys.dead_key('messages'), fields | {'body': BODY}).decode()}"


@pytest.fixture
def bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: Redis) -> Path:
    """A folder with handlers whose errors quote the sender, and with a body; one of them is said to fail always."""
    (tmp_path / "strangers_bot.py").write_text(HANDLERS)
    (tmp_path / "body.json").write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WA_HANDLERS", "strangers_bot:handlers")
    redis.hset(keys.BREAKDOWNS, EVIL, orjson.dumps({"error": EVIL, "next_try": time.time() + 60}))
    redis.hset(keys.CONTROLS, f"paused.handler.{EVIL}", 1)
    redis.hset(keys.CONTROLS, f"limit.handler.{EVIL}", 1)
    redis.zadd(keys.ALIVE, {"w": int(redis.time()[0]) * 1000})  # type: ignore[index]
    redis.hset(keys.IN_WORK, "w", orjson.dumps({"messages": [EVIL, time.time() - 600]}))
    return tmp_path


COMMANDS = (
    ("dead", "list"),
    ("dead", "list", "--json"),
    ("dead", "show", "LETTER"),
    ("dead", "show", "LETTER", "--json"),
    ("dead", "export"),
    ("status",),
    ("status", "--json"),
    ("check",),
    ("check", "--json"),
    ("call", "body.json"),
    ("call", "body.json", "--json"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_steers_the_terminal(
    command: tuple[str, ...], letter: str, bot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command writes a control or direction character of a stranger's, and none takes its text for markup."""
    monkeypatch.setenv("COLUMNS", "2000")
    result = CliRunner().invoke(main, [word.replace("LETTER", letter) for word in command])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not STEERING.findall(result.output)
    assert "[red]red[/red]" in result.output
    assert "[link=https://evil.org]here[/link]" in result.output


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[-1] in ("--json", "export")], ids=" ".join)
def test_json_is_exact(command: tuple[str, ...], letter: str, bot: Path) -> None:
    """What a program reads from the escapes is what the stranger wrote, character for character."""
    out = CliRunner().invoke(main, [word.replace("LETTER", letter) for word in command]).stdout
    found: list[str] = []

    def texts(tree: Any) -> None:
        if isinstance(tree, str):
            found.append(tree)
        for one in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            texts(one)

    texts(json.loads(out))
    assert any(EVIL in text or BODY.decode() == text for text in found)


def test_an_export_is_safe_to_look_at(letter: str, bot: Path) -> None:
    """`cat` of an exported file steers no terminal, either; its lines still hold the bodies as they were sent."""
    assert CliRunner().invoke(main, ["dead", "export", "-o", "letters.jsonl"]).exit_code == 0
    text = (bot / "letters.jsonl").read_text()
    assert not STEERING.findall(text)
    assert json.loads(text)["body"].encode() == BODY


def test_on_a_real_terminal(letter: str, bot: Path, redis_url: str) -> None:
    """Where rich writes colours and links of its own, it makes none of a stranger's text."""
    for command in (("dead", "list"), ("dead", "show", letter), ("call", "body.json"), ("status",)):
        screen = on_terminal("workers.cli", *command, columns=2000, cwd=bot)
        assert "[red]red[/red]" in screen.text
        assert not STEERING.findall(screen.text)  # without the colours that rich chose


LOGS = """
from ingest.loggers import get_logger
from ingest.telemetry import logs

text = {evil!r}
logs.configure()
log = get_logger("workers.x")
log.warning("told", id=text, several=[text])
try:
    raise ValueError(text)
except ValueError:
    log.exception("failed")
"""


def test_log_lines_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal, log lines are text: ids and errors in them are a sender's, and steer nothing."""
    (tmp_path / "program.py").write_text(LOGS.format(evil=EVIL))
    screen = on_terminal("program", columns=200, cwd=tmp_path)
    assert screen.text.count("[red]red[/red]") == 3
    assert "ValueError" in screen.text
    assert not STEERING.findall(screen.text)
