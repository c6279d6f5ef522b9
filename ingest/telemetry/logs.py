"""One line per thing that happened: readable on a terminal, JSON elsewhere. Nothing personal is ever logged."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import structlog

from ingest.telemetry.log_throttle import LogThrottle

in_work: ContextVar[tuple[Callable[[Any], Mapping[str, object]], Any] | None] = ContextVar("in_work", default=None)
"""What is in work now, after the function that makes log fields of it. That is called only when a line is written."""


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


def configure() -> None:
    """Send our lines and those of aiohttp, RQ and redis-py to standard error in one form."""
    terminal = sys.stderr.isatty()
    floods = LogThrottle()
    atexit.register(floods.end)
    structlog.configure(
        processors=[floods.processor, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(floods.filter)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    logging.getLogger("aiohttp.server").addFilter(_quotes_no_request)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # RQ logs several lines for every job and start, aiohttp one for every request. Ours say the same once.
    for chatty in ("rq.worker", "rq.queue", "rq.job", "rq.registry", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
