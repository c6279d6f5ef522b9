"""One line per thing that happened: readable on a terminal, JSON elsewhere. Nothing personal is ever logged.

Our own lines and those of RQ, redis-py and aiohttp's server have a log handler of their own. The rest of the process
belongs to the user: what the user's own configuration handles is left to it, and what it leaves is written in our form.
"""

from __future__ import annotations

import atexit
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import structlog

from ingest import loggers, terminal
from ingest.telemetry.log_throttle import LogThrottle
from ingest.telemetry.printable import printable

in_work: ContextVar[tuple[Callable[[Any], Mapping[str, object]], Any] | None] = ContextVar("in_work", default=None)
"""What is in work now, after the function that makes log fields of it. That is called only when a line is written."""

_OURS = ("ingest", "workers")

_TOLD = {("events failed", None), ("dead letters", "failed"), ("dead letters", "rejected")}
"""Log lines, and their reasons, whose events `up` on a terminal shows one by one."""

_OF_THE_SERVER = ("Redis is away", "Redis is back")
"""Log lines of workers; what has become of a server of its own, `up` says itself."""

_GOOD_NEWS = ("Redis has all that was spooled", "handler works again", "the archive is written again")
"""Lines that say that what a warning told of is over; others have `away_seconds`."""

_LIBRARIES = ("rq", "redis", "aiohttp.server")
"""Loggers of what we use ourselves; their lines are not the user's."""


def _add_what_is_in_work(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    now = in_work.get()
    if now is None:
        return line
    fields, what = now
    return {**fields(what), **line}


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_what_is_in_work,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _quotes_no_request(record: logging.LogRecord) -> bool:
    """False for the server's lines about broken requests, which quote the sender's bytes and address."""
    error = record.exc_info[0] if record.exc_info else None
    return error is None or error.__module__ not in ("aiohttp.http_exceptions", "aiohttp.web_protocol")


def _with_exception(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take the exception out of the record, which would write it behind the line."""
    record: logging.LogRecord = line["_record"]
    if record.exc_info:
        line["exc_info"] = record.exc_info
        record.exc_info = record.exc_text = None
    return line


def _frames(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Of an exception in a line with values=False, write where it came from, and nothing of what it says."""
    exc_info = None if line.pop("values", True) else line.pop("exc_info", None)
    if exc_info and (frames := traceback.extract_tb(exc_info[2])):  # a destination's failure has none
        line["frames"] = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return line


def _terse(line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if line["logger"].partition(".")[0] not in _OURS:
        return line
    del line["logger"]
    if frames := line.get("running"):
        line["running"] = terminal.innermost(frames)
    return {name: terminal.shortened(value) if isinstance(value, str) else value for name, value in line.items()}


def _has_no_line_beside(record: logging.LogRecord) -> bool:
    """False for what the lines of events say, too, each for its own, unless an exception's text is wanted."""
    line: Any = record.msg if isinstance(record.msg, dict) else {}
    if line.get("event") in _OF_THE_SERVER and terminal.has_own_server():
        return False
    return bool(line.get("values")) or (line.get("of", line.get("event")), line.get("reason")) not in _TOLD


def _is_news(record: logging.LogRecord) -> bool:
    """Warnings and errors; and that what one of them told of is over."""
    line: Any = record.msg if isinstance(record.msg, dict) else {}
    return record.levelno >= logging.WARNING or "away_seconds" in line or line.get("event") in _GOOD_NEWS


def _for_a_terminal(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a sender wrote (an id, or what is in an exception's text) does not steer the terminal."""
    line["timestamp"] = terminal.clock(line["timestamp"])
    if terminal.is_terse():
        line = _terse(line)
    return {
        name: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for name, value in line.items()
    }


def _renderers() -> tuple[structlog.typing.Processor, ...]:
    """How a line is written, on a terminal and elsewhere."""
    if sys.stderr.isatty():
        render = structlog.dev.ConsoleRenderer(colors=terminal.colours(sys.stderr))
        return _for_a_terminal, lambda *given: terminal.fitted(render(*given), sys.stderr)
    return (structlog.processors.JSONRenderer(),)


class _UnlessHandled(logging.StreamHandler[Any]):
    """Writes the lines that no log handler of the user's gets."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(map(self._is_another, _handlers_of(record.name))) and bool(super().filter(record))

    def _is_another(self, handler: logging.Handler) -> bool:
        return handler is not self and not isinstance(handler, logging.NullHandler)


def _handlers_of(name: str) -> Iterator[logging.Handler]:
    """The log handlers that a line of that logger gets to."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def configure(level: str = "info", news: bool = False) -> None:
    """Send our lines and those of our libraries to standard error in one form, those of at least this level.

    `news`: what this process has to say is for whoever has called `up` on a terminal, whatever its level.

    So are all others that nobody else handles. A process that runs code of a user's calls `user_has_configured` when
    that has had its chance to configure logging.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    terse = terminal.is_terse() and sys.stderr.isatty()
    floods = LogThrottle()
    atexit.register(floods.end)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        keep_exc_info=True,  # until `_with_exception` has it
        processors=[
            _with_exception,
            _frames,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *_renderers(),
        ],
    )
    ours, others = logging.StreamHandler(sys.stderr), _UnlessHandled(sys.stderr)
    for handler in (ours, others):
        handler.addFilter(floods.filter)
        handler.setFormatter(formatter)
    if terse:
        ours.addFilter(_has_no_line_beside)
    if terse and not news:
        ours.addFilter(_is_news)
    ours.setLevel(number)
    loggers.PROCESSORS[:] = [
        structlog.stdlib.filter_by_level,
        floods.processor,  # early, so that a line left out costs next to nothing
        *_SHARED,
        loggers.to_record,
    ]
    loggers.TREE.root.setLevel(number)
    loggers.TREE.root.handlers = [ours]
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [ours], False
    logging.getLogger("aiohttp.server").addFilter(_quotes_no_request)
    # RQ logs several lines for every job and start. Ours say the same once.
    for chatty in ("rq.worker", "rq.queue", "rq.job", "rq.registry"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    _write_the_rest(others, number)


def _write_the_rest(handler: logging.Handler, level: int) -> None:
    # Not on the root logger, where a log handler would make a `basicConfig` of the user's do nothing.
    logging.lastResort = handler
    if not logging.root.handlers and logging.root.level == logging.WARNING:  # Python's default
        logging.root.setLevel(_unlike_any(level))
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, *_SHARED, loggers.to_record],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )


def _unlike_any(level: int) -> int:
    """A level that lets the same lines through, and that no user sets: while it is there, it is ours."""
    return level - 1


def user_has_configured() -> None:
    """The user's modules and startup functions have run: leave the root logger to them, or take it."""
    root, level, rest = logging.root, loggers.TREE.root.level, logging.lastResort
    if root.level == _unlike_any(level):
        root.setLevel(logging.WARNING if root.handlers else level)
    if not root.handlers and rest is not None:
        root.addHandler(rest)  # or else a mere `logging.info(…)` would put Python's own there
    for name in list(root.manager.loggerDict):
        if any(f"{name}.".startswith(f"{library}.") for library in _LIBRARIES):
            logging.getLogger(name).disabled = False  # `dictConfig` disables what it does not name
