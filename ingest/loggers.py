"""Loggers of our own lines, out of reach of the program that they run in.

In a worker, Python's tree of loggers and structlog's configuration belong to the user, whose `dictConfig` may disable
every logger that it does not name. So ours are a tree of their own, and are given all that structlog would otherwise
read from its configuration. `ingest.telemetry.logs` says where their lines go.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

TREE = logging.Manager(logging.RootLogger(logging.INFO))
TREE.setLoggerClass(logging.Logger)  # or else it would be the class that the user has set


class Line(dict[str, Any]):
    """What a line holds. A log handler that does not know structlog, such as a user's, writes it as text."""

    def __str__(self) -> str:
        known = ("event", "level", "logger", "timestamp")
        return " ".join([str(self.get("event")), *(f"{name}={self[name]}" for name in self if name not in known)])


def to_record(
    logger: Any, method: str, line: structlog.typing.EventDict
) -> tuple[tuple[structlog.typing.EventDict], dict[str, Any]]:
    """The last processor: hands a line to a logger of the standard library, its exception where others look for it."""
    exc_info = line.pop("exc_info", None)
    arguments, options = structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, Line(line))
    return arguments, options | {"exc_info": exc_info}


PROCESSORS: list[structlog.typing.Processor] = [structlog.stdlib.filter_by_level, to_record]
"""What each line goes through; `ingest.telemetry.logs` adds to it."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger for a module of ours."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        TREE.getLogger(name),
        processors=PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger
