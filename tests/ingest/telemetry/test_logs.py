"""Log lines: our own in one form, whatever the user configures; the user's as the user configures, or in that form."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingest import loggers
from ingest.loggers import get_logger
from ingest.telemetry import logs
from ingest.terminal import OWN_SERVER

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web import RequestPayloadError
from ingest.loggers import get_logger
from ingest.telemetry import logs
logs.configure()
get_logger("workers.x").warning("ours", reason="ä\\nb")
logging.getLogger("rq.worker").info("chatty")
logging.getLogger("rq.worker").warning("theirs %s", 1)
server = logging.getLogger("aiohttp.server")
for error in (BadHttpMessage("Kerry"), RequestPayloadError("Kerry"), ZeroDivisionError("a bug")):
    try:
        raise error
    except Exception:
        server.exception("Error handling request")
"""

HOST = """
import logging, logging.config, sys
import structlog
from ingest.loggers import get_logger
from ingest.telemetry import logs
ours = get_logger("workers.engine.x")
early = structlog.get_logger("bot")
{before}
logs.configure({level!r})
ours.info("ours first")
{user}
logging.getLogger("bot").info("at import")
logs.user_has_configured()
logs.in_work.set((lambda event: {{"notification": event}}, "n1"))
ours.debug("ours debug")
ours.info("ours", n=1)
try:
    1 / 0
except ZeroDivisionError:
    ours.exception("ours failed")
logging.getLogger("rq.worker").warning("rq")
logging.getLogger("redis.x").warning("redis")
bot = logging.getLogger("bot")
bot.debug("debug")
bot.info("info")
logging.info("root")
structlog.get_logger("bot").info("struct", k="v")
{after}
"""

DICT = """
logging.getLogger("rq.worker"), logging.getLogger("redis.x")
logging.config.dictConfig({{
    "version": 1, "disable_existing_loggers": {disable},
    "formatters": {{"f": {{"format": "USER %(levelname)s %(name)s %(message)s"}}}},
    "handlers": {{"h": {{"class": "logging.StreamHandler", "formatter": "f"}}}},
    "root": {{"handlers": ["h"], "level": "INFO"}},
}})
"""

BASIC = 'logging.basicConfig(level=logging.DEBUG, format="USER %(levelname)s %(name)s %(message)s")'

OWN = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("USER %(levelname)s %(name)s %(message)s"))
logging.getLogger("bot").addHandler(handler)
"""

STRUCT = """
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
)
"""


def run(program: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What a program writes to standard error: lines in our form, and all others."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    return [json.loads(x) for x in lines if x[0] == "{"], [x for x in lines if x[0] != "{"]


def host(user: str = "", before: str = "", after: str = "", level: str = "info") -> tuple[list[Any], list[str]]:
    return run(HOST.format(user=user, before=before, after=after, level=level))


def of_ours(lines: list[dict[str, Any]]) -> list[str]:
    """The events of our own lines, after a look at their form."""
    found = [line for line in lines if line["logger"].startswith(("workers", "rq", "redis"))]
    assert all(line["timestamp"].endswith("Z") for line in found)
    failed = next(line for line in found if line["event"] == "ours failed")
    assert "ZeroDivisionError" in failed["exception"]
    return [line["event"] for line in found]


OURS = ["ours first", "ours", "ours failed", "rq", "redis"]


def test_lines() -> None:
    """Our lines and those of libraries are JSON of one form; broken requests are not quoted, real errors are."""
    (ours, theirs, bug), others = run(PROGRAM)
    assert (ours["event"], ours["reason"], ours["level"]) == ("ours", "ä\nb", "warning")
    assert (theirs["event"], theirs["logger"]) == ("theirs 1", "rq.worker")
    assert "ZeroDivisionError: a bug" in bug["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (ours, theirs, bug))
    assert "Kerry" not in str((ours, theirs, bug))
    assert others == []


def test_a_user_who_configures_nothing() -> None:
    """Lines of user's code, info and above, are in our form and name the event, through structlog, logging and root."""
    lines, others = host()
    assert others == []
    assert of_ours(lines) == OURS
    users = [line for line in lines if line["logger"] in ("bot", "root")]
    assert [(x["event"], x.get("notification")) for x in users] == [
        ("at import", None),
        ("info", "n1"),
        ("root", "n1"),
        ("struct", "n1"),
    ]
    assert users[-1]["k"] == "v"


@pytest.mark.parametrize("when", ["user", "before"])
def test_basic_config(when: str) -> None:
    """`basicConfig` works, with its own level and form, before ours or after it; our lines stay as they are."""
    lines, others = host(**{when: BASIC})
    assert of_ours(lines) == [line["event"] for line in lines] == OURS
    assert others == [
        "USER INFO bot at import",
        "USER DEBUG bot debug",
        "USER INFO bot info",
        "USER INFO root root",
        "USER INFO bot struct notification=n1 k=v",  # text, although the user's structlog is as we set it up
    ]


def test_basic_config_without_a_level() -> None:
    """Then the user's level is Python's default, as in any program."""
    lines, others = host('logging.basicConfig(format="USER %(message)s")', after='bot.warning("warning")')
    assert (of_ours(lines), others) == (OURS, ["USER at import", "USER warning"])


@pytest.mark.parametrize("disable", [True, False])
def test_dict_config(disable: bool) -> None:
    """`dictConfig`, as Django calls it, neither changes nor silences our lines, nor RQ's and redis-py's."""
    lines, others = host(DICT.format(disable=disable))
    assert of_ours(lines) == [line["event"] for line in lines] == OURS
    shown = [line.removeprefix("USER INFO ") for line in others]
    assert shown == ["bot at import", "bot info", "root root", "bot struct notification=n1 k=v"]


def test_a_dict_config_that_comes_late() -> None:
    """Our own lines are out of reach of a configuration that a handler makes, too."""
    lines, _ = host(after=DICT.format(disable=True) + 'ours.info("ours last")')
    assert lines[-1]["event"] == "ours last"


def test_a_handler_on_a_logger_of_the_user() -> None:
    """Lines of a logger that has a log handler are written once, by that; those of others in our form."""
    lines, others = host(OWN)
    assert of_ours(lines) == OURS
    assert [line["event"] for line in lines if line["logger"] in ("bot", "root")] == ["root"]
    shown = [line.removeprefix("USER INFO bot ") for line in others]
    assert shown == ["at import", "info", "struct notification=n1 k=v"]


def test_a_handler_that_comes_late() -> None:
    """As soon as the root logger has a log handler of the user's, ours writes nothing beside it."""
    lines, others = host(after='logging.getLogger().addHandler(logging.StreamHandler())\nbot.info("late")')
    assert of_ours(lines) == OURS
    assert "late" not in [line["event"] for line in lines]
    assert others == ["late"]


def test_structlog_configured() -> None:
    """The user's `structlog.configure` holds for the user's lines, also of loggers made before, and not for ours."""
    lines, others = host(STRUCT, after='early.info("early")')
    assert of_ours(lines) == OURS
    assert others == ["k='v' event='struct'", "event='early'"]


def test_a_library_that_wants_no_lines() -> None:
    """A `NullHandler`, which many libraries have, hides nothing."""
    lines, _ = host('logging.getLogger("bot").addHandler(logging.NullHandler())')
    assert "info" in [line["event"] for line in lines]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["ours first", "at import", "ours debug", "ours", "ours failed", "rq", "redis", "debug", "info"]),
        ("warning", ["ours failed", "rq", "redis"]),
        ("error", ["ours failed"]),
    ],
)
def test_level(level: str, expected: list[str]) -> None:
    """WA_LOG_LEVEL holds for our lines, and for the user's as long as the user sets no level."""
    lines, others = host(level=level)
    assert [line["event"] for line in lines][: len(expected)] == expected
    assert len(lines) == len(expected) + 2 * (level == "debug")  # "root" and "struct"
    assert others == []


def test_text_without_a_form(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is configured, as in a user's own tests, our warnings are readable text."""
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    assert loggers.TREE.root.handlers == []
    get_logger("workers.x").warning("ours", handler="bot.answer")
    get_logger("workers.x").debug("nothing")
    assert capsys.readouterr().err == "ours handler=bot.answer\n"


def test_others_find_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a line holds its exception, where Sentry, which looks at every logger's records, finds it."""
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: records.append(record))
    error = ValueError()
    get_logger("workers.x").error("failed", exc_info=error, handler="bot.answer")
    assert records[0].exc_info is not None
    assert (records[0].exc_info[1], records[0].getMessage()) == (error, "failed handler=bot.answer")


def test_no_logger_of_ours_reads_the_configuration() -> None:
    """Every module gets its logger from `ingest.loggers`: one from structlog would be as the user configures it."""
    modules = [path for room in ("ingest", "workers") for path in (ROOT / room).rglob("*.py")]
    assert [path for path in modules if re.search(r"structlog\.(stdlib\.)?get_logger", path.read_text())] == []


@pytest.mark.parametrize(
    ("level", "line", "shown", "shown_with_own_server"),
    [
        ("WARNING", {"event": "a thing"}, True, True),
        ("INFO", {"event": "a thing"}, False, False),
        ("INFO", {"event": "traces are delivered again", "away_seconds": 1.0}, True, True),
        ("INFO", {"event": "Redis has all that was spooled"}, True, True),
        ("INFO", {"event": "handler works again"}, True, True),
        ("INFO", {"event": "the archive is written again"}, True, True),
        ("WARNING", {"event": "Redis is away", "reason": "ConnectionError"}, True, False),
        ("INFO", {"event": "Redis is back", "away_seconds": 1.0}, True, False),
        ("ERROR", {"event": "events failed"}, False, False),
        ("ERROR", {"event": "events failed", "values": True}, True, True),
        ("WARNING", {"event": "dead letters", "reason": "failed"}, False, False),
        ("WARNING", {"event": "lines left out", "of": "dead letters", "reason": "failed"}, False, False),
        ("WARNING", {"event": "dead letters", "reason": "expired"}, True, True),
    ],
)
def test_what_is_shown_beside_events(
    level: str, line: dict[str, Any], shown: bool, shown_with_own_server: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the lines of events stand warnings that these do not tell, and that what was away is back; of a server of
    its own, `up` says that itself."""
    record = logging.LogRecord("workers", logging.getLevelNamesMapping()[level], "", 1, line, (), None)  # type: ignore[arg-type]
    assert (logs._has_no_line_beside(record) and logs._is_news(record)) is shown
    monkeypatch.setenv(OWN_SERVER, "1")
    assert (logs._has_no_line_beside(record) and logs._is_news(record)) is shown_with_own_server
