"""Bounds repeated log lines: the first few are written, then one line that says how many more were left out."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import structlog

from ingest.loggers import get_logger

log = get_logger(__name__)

SECONDS = 10.0
FIRST = 3
"""Lines of a kind that are written in SECONDS."""

_KINDS = 500
_DISTINCT = ("lane", "handler", "process", "redis", "reason", "of")  # lines that differ in these are of different kinds
_OURS = frozenset({"ingest", "workers", "rq", "redis", "aiohttp", "asyncio", "opentelemetry"})
_OTHERS = ("",)  # the kind of all new lines while there are too many kinds


class _Kind:
    """The lines of a kind in one window of SECONDS; `until` is its end."""

    __slots__ = ("count", "fields", "until")

    def __init__(self, until: float, fields: dict[str, Any]) -> None:
        self.until = until
        self.fields = fields
        self.count = 0


class LogThrottle:
    """Bounds our own lines and those of our libraries. Lines that handlers log are never left out."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        self._lock = threading.RLock()  # a signal handler may log while this thread holds it

    def processor(self, logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """For structlog: the first processor, so that a line left out costs next to nothing."""
        if not self.lets_through(logger.name, line["event"], line):
            raise structlog.DropEvent
        return line

    def filter(self, record: logging.LogRecord) -> bool:
        """For a log handler of the standard library: bounds lines that did not come through structlog."""
        return isinstance(record.msg, dict) or self.lets_through(record.name, str(record.msg), {})

    def lets_through(self, logger: str, event: str, line: structlog.typing.EventDict) -> bool:
        """Whether a line is to be written."""
        if logger.partition(".")[0] not in _OURS:
            return True
        fields = {name: line[name] for name in _DISTINCT if name in line}
        key = (logger, event, *map(str, fields.values()))
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None or (kind.count <= FIRST and kind.until < time.monotonic()):
                kind = self._begin(key, {"of": event} | fields)
            kind.count += 1
            if kind.count == FIRST + 1:
                timer = threading.Timer(max(0.0, kind.until - time.monotonic()), self._end, [key])
                timer.daemon = True
                timer.start()
            return kind.count <= FIRST

    def _begin(self, key: tuple[str, ...], fields: dict[str, Any]) -> _Kind:
        now = time.monotonic()
        if len(self._kinds) >= _KINDS:
            self._kinds = {k: kind for k, kind in self._kinds.items() if kind.count > FIRST or kind.until >= now}
        if len(self._kinds) >= _KINDS:
            key, fields = _OTHERS, {"of": "lines of many kinds"}
            if key in self._kinds:
                return self._kinds[key]
        kind = self._kinds[key] = _Kind(now + SECONDS, fields)
        return kind

    def _end(self, key: tuple[str, ...]) -> None:
        with self._lock:
            kind = self._kinds.pop(key, None)
        if kind is not None and kind.count > FIRST:
            _report(kind)

    def end(self) -> None:
        """Report every flood under way, because the process ends."""
        for key in list(self._kinds):
            self._end(key)


def _report(kind: _Kind) -> None:
    log.warning("lines left out", count=kind.count - FIRST, **kind.fields)
