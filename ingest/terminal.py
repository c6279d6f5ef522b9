"""What is printed on a terminal by all that write there without rich."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TextIO

TERSE = "INGEST_TERSE"
"""In the environment of what `up` runs on a terminal, beside the lines of events: our own log lines are warnings and
errors alone, with the time as the clock here shows it, and without the module."""


def colours(stream: TextIO) -> bool:
    """True on a terminal that has colours, unless its user does without (https://no-color.org). As rich decides."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def is_terse() -> bool:
    return TERSE in os.environ


def clock(iso: str) -> str:
    """An ISO 8601 time of today as the clock here shows it."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")
