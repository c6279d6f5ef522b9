"""LogThrottle of log lines: the first ones, then one that counts the rest; handlers' own lines are never touched."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.telemetry import log_throttle

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging, sys
import structlog
from ingest.loggers import get_logger
from ingest.telemetry import logs
logs.configure()
ours = get_logger("workers.engine.batch")
for n in range(1000):
    ours.warning("ours", lane="messages", n=n)
    ours.warning("ours", lane="statuses", n=n)
    logging.getLogger("rq.worker").warning("theirs %s", n)
    structlog.get_logger("mybot.handlers").info("handler", n=n)
    logging.getLogger("mybot.handlers").info("handler too")
"""


def test_a_flood_ends_with_its_count() -> None:
    """Of the same line with the same lane the first come through; at the end one says how many more there were."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lines = list(map(json.loads, done.stderr.splitlines()))
    assert [line["n"] for line in lines if line["event"] == "ours"] == [0, 0, 1, 1, 2, 2]
    assert sum(line["event"].startswith("theirs") for line in lines) == 3
    assert sum(line["event"].startswith("handler") for line in lines) == 2000
    left_out = [(line["of"], line.get("lane"), line["count"]) for line in lines if line["event"] == "lines left out"]
    assert left_out == [("ours", "messages", 997), ("ours", "statuses", 997), ("theirs %s", None, 997)]


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> log_throttle.LogThrottle:
    """With a window that is soon over."""
    monkeypatch.setattr(log_throttle, "SECONDS", 0.2)
    return log_throttle.LogThrottle()


def test_a_window_that_is_over_begins_anew(
    guard: log_throttle.LogThrottle, wait_for: Callable[..., None], monkeypatch: Any
) -> None:
    """After the window a flood is told without another line, and the next lines come through again."""
    told: list[tuple[int, dict[str, Any]]] = []
    monkeypatch.setattr(log_throttle, "_report", lambda kind: told.append((kind.count, kind.fields)))
    assert [guard.lets_through("ingest.x", "e", {"reason": "r"}) for _ in range(5)] == [True] * 3 + [False] * 2
    wait_for(lambda: told)
    assert told == [(5, {"of": "e", "reason": "r"})]
    assert guard.lets_through("ingest.x", "e", {"reason": "r"})


def test_memory_is_bounded() -> None:
    """Lines of ever new kinds share one entry when there are too many, and are rated together."""
    guard = log_throttle.LogThrottle()
    through = sum(guard.lets_through("ingest.x", f"line {n}", {}) for n in range(5000))
    assert through == log_throttle._KINDS + log_throttle.FIRST
    assert len(guard._kinds) == log_throttle._KINDS + 1


def test_libraries_pass_the_same_gate(guard: log_throttle.LogThrottle) -> None:
    """Lines of the standard library's loggers are told apart by their text before it is filled in."""
    record = logging.LogRecord("redis", logging.ERROR, "", 0, "no %s", ("luck",), None)
    assert [guard.filter(record) for _ in range(4)] == [True, True, True, False]
