"""One line per thing that happened: readable on a terminal, JSON elsewhere. Nothing personal is ever logged."""

from __future__ import annotations

import logging
import sys

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
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
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
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
    # RQ tells every job and every start in several lines, aiohttp every request: ours say the same once.
    for chatty in ("rq.worker", "rq.queue", "rq.job", "rq.registry", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
