"""Log lines: one JSON object each where nobody watches, and silence about what senders break."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging
import structlog
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web import RequestPayloadError
from ingest.telemetry import logs
logs.configure()
structlog.get_logger().warning("ours", reason="ä\\nb")
logging.getLogger("rq.worker").info("chatty")
logging.getLogger("rq.worker").warning("theirs %s", 1)
server = logging.getLogger("aiohttp.server")
for error in (BadHttpMessage("Kerry"), RequestPayloadError("Kerry"), ZeroDivisionError("a bug")):
    try:
        raise error
    except Exception:
        server.exception("Error handling request")
"""


def test_lines() -> None:
    """Our lines and those of libraries are JSON of one form; broken requests are not quoted, real errors are."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    ours, theirs, bug = map(json.loads, done.stderr.splitlines())
    assert (ours["event"], ours["reason"], ours["level"]) == ("ours", "ä\nb", "warning")
    assert (theirs["event"], theirs["logger"]) == ("theirs 1", "rq.worker")
    assert "ZeroDivisionError: a bug" in bug["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (ours, theirs, bug))
    assert "Kerry" not in done.stderr
    assert done.stdout == ""
