"""When the same line comes again and again, the first ones are let through, then one that says how many more came."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import structlog

log = structlog.get_logger()

SECONDS = 10.0
FIRST = 3
"""Lines of a kind in so many seconds."""

_KINDS = 500
_TELLING = ("lane", "handler", "process", "redis", "reason", "of")  # values that make a line one of another kind
_OURS = frozenset({"ingest", "workers", "__main__", "rq", "redis", "aiohttp", "asyncio", "opentelemetry"})
_REST = ("",)  # the kind of all lines while there are too many kinds


class _Kind:
    """The lines of a kind since its first; in a flood that is told, anew."""

    __slots__ = ("came", "says", "until")

    def __init__(self, until: float, says: dict[str, Any]) -> None:
        self.until = until
        self.says = says
        self.came = 0


class LogThrottle:
    """Bounds our own lines and those of the libraries. What handlers log is theirs: it is never left out."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        self._lock = threading.RLock()  # a signal handler may log while this thread holds it

    def processor(self, logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """For structlog: the first processor, so that what is left out costs next to nothing."""
        if not self.lets_through(logger.name, line["event"], line):
            raise structlog.DropEvent
        return line

    def filter(self, record: logging.LogRecord) -> bool:
        """For a handler of the standard library: lines that did not come through structlog."""
        return isinstance(record.msg, dict) or self.lets_through(record.name, str(record.msg), {})

    def lets_through(self, logger: str, event: str, line: structlog.typing.EventDict) -> bool:
        """Whether a line is to be written."""
        if logger.partition(".")[0] not in _OURS:
            return True
        says = {name: line[name] for name in _TELLING if name in line}
        key = (logger, event, *map(str, says.values()))
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None or (kind.came <= FIRST and kind.until < time.monotonic()):
                kind = self._begin(key, {"of": event} | says)
            kind.came += 1
            if kind.came == FIRST + 1:
                timer = threading.Timer(max(0.0, kind.until - time.monotonic()), self._end, [key])
                timer.daemon = True
                timer.start()
            return kind.came <= FIRST

    def _begin(self, key: tuple[str, ...], says: dict[str, Any]) -> _Kind:
        now = time.monotonic()
        if len(self._kinds) >= _KINDS:
            self._kinds = {k: kind for k, kind in self._kinds.items() if kind.came > FIRST or kind.until >= now}
        if len(self._kinds) >= _KINDS:
            key, says = _REST, {"of": "lines of many kinds"}
            if key in self._kinds:
                return self._kinds[key]
        kind = self._kinds[key] = _Kind(now + SECONDS, says)
        return kind

    def _end(self, key: tuple[str, ...]) -> None:
        with self._lock:
            kind = self._kinds.pop(key, None)
        if kind is not None and kind.came > FIRST:
            _told(kind)

    def end(self) -> None:
        """Tell of every flood that goes on: the process ends."""
        for key in list(self._kinds):
            self._end(key)


def _told(kind: _Kind) -> None:
    log.warning("lines left out", count=kind.came - FIRST, **kind.says)
