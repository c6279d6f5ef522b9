"""What is printed on a terminal by all that write there without rich."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

TERSE = "INGEST_TERSE"
"""In the environment of what `up` runs on a terminal, beside the lines of events: our own log lines are warnings and
errors alone, with the time as the clock here shows it, and without module and frames."""


def colours(stream: TextIO) -> bool:
    """True on a terminal that has colours, unless its user does without (https://no-color.org). As rich decides."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def is_terse() -> bool:
    return TERSE in os.environ


def shortened(value: str) -> str:
    """A text without the working folder in front of the paths in it."""
    return value.replace(os.getcwd() + os.sep, "")


def innermost(frames: Sequence[str]) -> str:
    """The one of these frames that says most where a call is: the innermost in the working folder, if there is one."""
    here = [shortened(frame) for frame in frames if frame.startswith(os.getcwd() + os.sep)]
    return here[-1] if here else frames[-1]


def clock(iso: str) -> str:
    """An ISO 8601 time of today as the clock here shows it."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")


def when(then: datetime) -> str:
    """A local time as the clock here shows it: 14:03:59, and the date when it is not today's."""
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")
