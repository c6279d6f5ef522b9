"""Every command on a terminal of 80 and of 120 columns: no traceback, tables that fit, an end at Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.local import socket_path
from tests.workers.cli.terminal import Screen, on_terminal
from workers.archive.files import Archive
from workers.cli.help import EXAMPLES

ROOT = Path(__file__).parents[3]
RECEIVED = 1_700_000_000_000
LETTER = "1700000000000-0"
WIDTHS = pytest.mark.parametrize("columns", [80, 120])

BOT = """
from workers import Handlers
handlers = Handlers()

@handlers.message("text", "button", "image", "interactive", "location", rate="50/s", concurrency=4)
def answer_everything_that_a_customer_writes_to_us(message):
    raise RuntimeError("the database at db.internal.example.com:5432 does not accept connections at this moment")

@handlers.status()
async def remember(status):
    pass
"""

DESTINATIONS = """
[[destination]]
name = "customer-relations"
url = "http://127.0.0.1:1/an/address/that/is/longer/than/most/webhook"
types = ["text", "image"]
statuses = ["failed", "read"]
rate = "50/s"
secret = "s3cret"
bulk = 500
"""

TABLES = {
    "status": 0,
    "check": 1,  # a backlog, and no worker
    "settings": 0,
    "handlers": 0,
    "destinations --check": 1,  # nobody listens there
    "call body.json": 1,
    "dead list": 0,
    "dead causes": 0,
    "archive": 0,
}
"""Commands that show a table, and their exit status."""

OTHERS = {
    "new bot": 0,
    f"dead show messages/{LETTER}": 0,
    "dead export": 0,
    "dead retry --dry-run": 0,
    "dead drop --dry-run": 0,
    "dead retry --yes": 0,
    "dead drop --yes": 0,
    "replay --dry-run": 0,
    "replay --again --yes": 0,
    "retry": 0,
    "limit statuses 200/s": 0,
    "pause statuses": 0,
    "resume statuses": 0,
    "drain statuses --processes 1": 0,
    "help": 0,
    "help a-handler-hangs": 0,
    "schema": 0,
    "schema --typescript": 0,
    "coreapp login --user admin": 1,
    "coreapp settings show": 1,
    "coreapp settings apply --url https://example.com/webhook --dry-run": 1,
    "coreapp ca upload body.json": 1,
    "coreapp ca show": 1,
    "coreapp ca delete": 1,
    "coreapp health": 1,
    "cloud subscribe 1": 1,
    "cloud show 1": 1,
}
"""The rest of those that end by themselves; there is no sender here to set up."""

UNTIL_STOPPED = {"up", "serve", "work"}
WITH_A_RECEIVER = {"simulate", "tail"}


@pytest.fixture
def folder(
    tmp_path: Path, redis: Redis, commit: Any, message: Any, status: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder: handlers, a body, an archive; and Redis with a backlog and dead letters."""
    (tmp_path / "bot.py").write_text(BOT)
    (tmp_path / "body.json").write_bytes(message(id="m" * 60))
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
    (tmp_path / "destinations.toml").write_text(DESTINATIONS)
    monkeypatch.setenv("WA_DESTINATIONS", "destinations.toml")
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(tmp_path / "archive"))
    commit(*[status(str(n)) for n in range(1200)], message())
    letter = {"reason": "failed", "kind": "message", "attempt": 8, "received": RECEIVED, "queue": "messages.0"}
    letter |= {"detail": "RuntimeError: " + "the database does not answer, " * 9, "body": message()}
    redis.xadd(keys.dead_key("messages"), letter, id=LETTER)
    redis.xadd(keys.dead_key("statuses"), letter | {"queue": "statuses"})
    assert Archive(tmp_path / "archive", "w1").keep([(RECEIVED, status("kept"))], lambda: False)
    return tmp_path


def shown(command: str, columns: int, folder: Path, **options: Any) -> Screen:
    screen = on_terminal("workers.cli", *command.split(), columns=columns, cwd=folder, **options)
    assert "Traceback" not in screen.text, screen.text
    return screen


@WIDTHS
@pytest.mark.parametrize("command", TABLES)
def test_tables_fit(command: str, columns: int, folder: Path) -> None:
    """No line of a table is wider than the terminal, and nothing that is needed elsewhere is cut."""
    screen = shown(command, columns, folder)
    assert screen.status == TABLES[command], screen.text
    assert max(map(len, screen.lines)) <= columns, screen.text
    assert "…" not in screen.text


@WIDTHS
@pytest.mark.parametrize("command", ["handlers", "call body.json"])
def test_names_are_whole(command: str, columns: int, folder: Path) -> None:
    """The name of a handler can be copied; paths are told from the working folder."""
    screen = shown(command, columns, folder)
    assert "bot.answer_everything_that_a_customer_writes_to_us" in screen.text.split()
    assert " bot.py:" in screen.text or "(bot.py:" in screen.text
    assert str(folder) not in screen.text


@pytest.mark.parametrize("command", ["dead list", "dead causes", "dead show messages/1700000000001-0"])
def test_what_letters_died_of(command: str, folder: Path, redis: Redis) -> None:
    """The name of the handler is whole, the place is told from the working folder, and no line is too long."""
    handler = "shop.handlers.customers.answer_when_somebody_asks"
    letter = {"reason": "failed", "kind": "message", "attempt": 8, "received": RECEIVED, "queue": "messages.0"}
    letter |= {
        "handler": handler,
        "detail": f"KeyError: 'the total of this order, which has many parts' ({folder}/bot.py:12)",
        "body": "{}",
    }
    redis.xadd(keys.dead_key("messages"), letter, id="1700000000001-0")
    screen = shown(command, 80, folder)
    assert handler in screen.text.replace(":", " ").split()
    assert re.search(r"[ (]bot\.py:12", screen.text)
    assert str(folder) not in screen.text
    assert max(map(len, screen.lines)) <= 80


def test_settings_have_room(folder: Path) -> None:
    """What a setting means stands below its value, not in a narrow column beside it."""
    assert len(shown("settings", 80, folder).lines) < 180


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_topics_are_wrapped(columns: int, tmp_path: Path) -> None:
    """`help` wraps its text, tables and lines to copy in whole words at the terminal's width, and cuts none."""
    screen = shown("help some-calls-fail", columns, tmp_path)
    assert screen.status == 0
    assert max(map(len, screen.lines)) <= columns
    assert "| it fails" not in screen.text
    assert "retry --reason failed" in screen.text
    assert "(handlers-run-out" in screen.text
    assert not re.search(r"\w…", screen.text)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_dead_letters_can_be_named(columns: int, folder: Path) -> None:
    """The list of dead letters shows each LANE/ID whole, however long the details are; what two died of stands below
    them, once and whole."""
    screen = shown("dead list", columns, folder)
    assert f" messages/{LETTER} " in screen.text
    said = " ".join(line.strip() for line in screen.lines if line.startswith("    ") and "/" not in line)
    assert said == "RuntimeError: " + ("the database does not answer, " * 9).strip()


@pytest.mark.parametrize("command", OTHERS)
def test_commands_that_end(command: str, folder: Path) -> None:
    """They end with their exit status, and say why in a line when that is not 0."""
    screen = shown(command, 80, folder)
    assert screen.status == OTHERS[command], screen.text
    assert screen.status == 0 or screen.lines[-1].startswith("Error: "), screen.text


def test_each_command_is_tried() -> None:
    """Each command that there is, is tried on a terminal."""
    tried = [*TABLES, *OTHERS, *UNTIL_STOPPED, *WITH_A_RECEIVER]
    assert [name for name in EXAMPLES if not any(one.split(" -")[0].startswith(name) for one in tried)] == []


@WIDTHS
def test_watch(columns: int, folder: Path) -> None:
    """`status --watch` shows all figures and a plot of each lane, again and again; Ctrl-C ends it with status 0."""
    screen = shown("status --watch", columns, folder, until=lambda text: text.count("workers: 0") >= 3)
    assert screen.status == 0
    lanes = [line for line in screen.lines if line.startswith("statuses ")]
    assert len([line for line in lanes if " 1,200 " in line]) >= 3
    assert len([line for line in lanes if line.endswith("█")]) >= 3
    assert "…" not in screen.text
    assert "empty in" in screen.text
    assert all("no worker" in line for line in lanes if " 1,200 " in line)
    assert "workers: 0" in screen.lines
    assert any(line.startswith("No worker is alive: ") for line in screen.lines)
    assert max(map(len, screen.lines)) <= columns, screen.text


def test_watch_where_there_are_no_blocks(folder: Path) -> None:
    """On a terminal that takes ASCII only the plots are made of other marks."""
    ascii = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    screen = shown("status --watch", 80, folder, until=lambda text: text.count("workers: 0") >= 3, **ascii)
    assert screen.status == 0
    assert any(line.startswith("statuses ") and line.endswith("#") for line in screen.lines)


@WIDTHS
def test_up_serve_and_work(columns: int, folder: Path, free_port: Callable[[], int], redis_url: str) -> None:
    """They run until Ctrl-C, which ends them with status 0; log lines and what `up` says first fit."""
    own = {
        "WA_LISTEN": f"127.0.0.1:{free_port()}",
        "WA_ADMIN_LISTEN": f"[::1]:{free_port()}",
        "WA_REDIS_URL": redis_url,
    }
    running = {"up": "Ctrl-C stops", "serve": "receiver started", "work": "worker started"}
    assert running.keys() == UNTIL_STOPPED
    for command, said in running.items():
        screen = shown(command, columns, folder, until=lambda text: said in text, **own)  # noqa: B023
        assert screen.status == 0, screen.text
        if command != "up":  # which has a line to copy
            assert max(map(len, screen.lines)) <= columns, screen.text
            assert re.search(rf"^\d\d:\d\d:\d\d \[info     \] {said} ", screen.text, re.MULTILINE)
            assert ("queues=messages (32 partitions), statuses, other" in " ".join(screen.text.split())) == (
                command == "work"
            )
        else:
            first = [
                line for line in screen.lines if line.startswith(("receiver", "page", "admin", "workers", "redis"))
            ]
            assert len(first) == 5
            assert screen.lines[-1] == "stopped; nothing is lost, the next `up` goes on from here"
            assert max(map(len, first)) <= columns
            assert f"http://{own['WA_ADMIN_LISTEN']}/" in screen.text
            assert "python -m workers.cli status" in screen.text


EVENT = r"^\d\d:\d\d:\d\d  message text {9}CONTACT +handled +\S+ ms  bot.answer$"


@pytest.mark.parametrize(
    ("arguments", "env"),
    [("", {}), ("", {"NO_COLOR": "1"}), ("", {"TERM": "dumb"}), ("--personal", {})],
    ids=["colours", "no-color", "dumb", "personal"],
)
def test_up_shows_events(
    arguments: str, env: dict[str, str], tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` shows a line for each event, which fits and says nothing personal unless asked to, and none of its own log
    lines but warnings; what handlers log is shown. There are colours where they are wanted."""
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bot.py").write_text(
        "import logging\nfrom workers import Handlers\nhandlers = Handlers()\n\n"
        "@handlers.message()\ndef answer(message):\n    logging.getLogger('bot').info('it came')\n"
    )
    port = free_port()
    body = b'{"messages":[{"from":"4915550001","id":"m1","type":"text","text":{"body":"Hello"}}]}'
    posted: list[bytes] = []

    def until(text: str) -> bool:
        if "Ctrl-C stops" in text and not posted:
            posted.append(body)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/webhook", body, timeout=30) as answer:
                assert answer.status == 200
        since = text.partition("Ctrl-C stops")[2]  # before it stands a line to copy
        return "bot.answer" in since and ("Hello" in since or not arguments)

    own = {"WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"} | env
    screen = shown(f"up {arguments}", 80, tmp_path, until=until, **own)
    assert screen.status == 0, screen.text
    shape = EVENT.replace("CONTACT", "4915550001" if arguments else "…0001")
    lines = re.findall(shape, screen.text, re.MULTILINE)
    assert len(lines) == 1
    assert len(lines[0]) <= 80
    assert ("Hello" in screen.text.partition("Ctrl-C stops")[2]) is bool(arguments)
    assert ("4915550001" in screen.text) is bool(arguments)
    assert {line[8:27] for line in screen.lines if "[info" in line} == {" [info     ] it cam"}
    assert (re.search(rb"\x1b\[[\d;]*3\dm", screen.written) is not None) is (not env)


def test_up_when_its_server_is_killed(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """It says how the server ended, where notifications go meanwhile, and when all that is over, each once."""
    (tmp_path / "bot.py").write_text(BOT)
    port = free_port()
    ends = ("process runs again", "Redis is used again", "Redis has all that was spooled")
    killed: list[int] = []

    def until(text: str) -> bool:
        if "Ctrl-C stops" in text and not killed:
            with Redis(unix_socket_path=str(socket_path(tmp_path / "data"))) as redis:
                killed.append(int(redis.info("server")["process_id"]))
            os.kill(killed[0], signal.SIGKILL)
            body = b'{"statuses":[{"id":"s1","status":"read","timestamp":"1","recipient_id":"4915550001"}]}'
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/webhook", body, timeout=30) as answer:
                assert answer.status == 200
        return all(end in text for end in ends)

    own = {"WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    screen = shown("up", 80, tmp_path, until=until, **own)
    text = " ".join(screen.text.partition("Ctrl-C stops")[2].split())
    assert screen.status == 0, screen.text
    assert "process=valkey" in text
    said = ("killed by signal 9 (SIGKILL)", "Redis is not used, notifications go to the disk spool", *ends)
    assert [text.count(each) for each in said] == [1] * len(said), screen.text
    assert "see WA_REDIS_URL" not in text


def test_up_shows_what_waited(
    tmp_path: Path, redis_url: str, commit: Any, message: Any, free_port: Callable[[], int]
) -> None:
    """What a worker handles as soon as it has started is shown, too."""
    (tmp_path / "bot.py").write_text(BOT.replace("raise RuntimeError", "print"))
    commit(*[message(id=f"m{n}", sender=f"1555000{n}") for n in range(3)])
    own = {
        "WA_LISTEN": f"127.0.0.1:{free_port()}",
        "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "WA_REDIS_URL": redis_url,
    }
    screen = shown("up", 80, tmp_path, until=lambda text: "Ctrl-C stops" in text, **own)
    assert screen.text.count("  handled ") == 3, screen.text


@pytest.mark.parametrize("full", [False, True])
def test_up_when_a_handler_fails(
    full: bool, tmp_path: Path, redis_url: str, commit: Any, message: Any, free_port: Callable[[], int]
) -> None:
    """Of a handler that always fails `up` shows each failure in a line, then that its events wait, and no more; frames
    with WA_LOG_ERRORS=full alone."""
    (tmp_path / "bot.py").write_text(BOT)
    commit(*[message(id=f"m{n}", sender=f"15550{n:03}") for n in range(30)])
    own = {
        "WA_LISTEN": f"127.0.0.1:{free_port()}",
        "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "WA_REDIS_URL": redis_url,
        "WA_LOG_ERRORS": "full" if full else "place",
    }
    up = ("workers.cli", "up")
    screen = on_terminal(*up, columns=100, cwd=tmp_path, until=lambda text: "Ctrl-C stops" in text, **own)
    assert screen.status == 0
    assert screen.text.count("handler always fails, its events wait") == 1
    assert screen.text.count(" failed ") + screen.text.count(" waits ") <= 30
    assert 9 <= screen.text.count(" failed ") <= 29
    assert ("events failed" in screen.text, "Traceback" in screen.text) == (full, full)
    assert "frames=" not in screen.text
    assert f"{tmp_path}/bot.py" not in screen.text


def test_simulate(folder: Path, free_port: Callable[[], int], run_module: Any, wait_for: Any) -> None:
    """The report of `simulate` fits."""
    port, log = free_port(), folder / "log"
    env = os.environ | {"WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    with log.open("w") as out:
        run_module("ingest.server", env=env, stdout=out)
    wait_for(lambda: "receiver started" in log.read_text())
    screen = shown(f"simulate --to http://127.0.0.1:{port}/webhook --seconds 0.5 --rate 20", 80, folder)
    assert screen.status == 0, screen.text
    assert max(map(len, screen.lines)) <= 80, screen.text


@WIDTHS
def test_tail(
    columns: int,
    folder: Path,
    free_port: Callable[[], int],
    redis_url: str,
    run_module: Any,
    wait_for: Any,
) -> None:
    """What workers handle is shown until Ctrl-C, which ends it with status 0."""
    listen, log = f"127.0.0.1:{free_port()}", folder / "log"
    own = {"WA_ADMIN_LISTEN": listen, "WA_ADMIN_TOKEN": "correct-horse-battery", "WA_REDIS_URL": redis_url}
    with log.open("w") as out:
        for module in ("ingest.server", "workers.engine.worker"):
            env = os.environ | own | {"WA_LISTEN": f"127.0.0.1:{free_port()}", "PYTHONPATH": str(ROOT)}
            env |= {"WA_DESTINATIONS": "", "WA_LANES": "messages"}
            run_module(module, cwd=folder, env=env, stdout=out)
    wait_for(lambda: "receiver started" in log.read_text())
    screen = shown("tail", columns, folder, until=lambda text: "waits" in text or "failed" in text, **own)
    assert screen.status == 0, screen.text
    assert screen.lines[0] == f"listening at http://{listen}, Ctrl-C ends"
    assert any(" message text " in line for line in screen.lines), screen.text


def test_json_is_not_wrapped(folder: Path) -> None:
    """JSON on a terminal is JSON, however narrow."""
    assert json.loads(shown("settings --json", 80, folder).text)
