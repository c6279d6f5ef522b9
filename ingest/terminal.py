"""What is printed on a terminal by all that write there without rich."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

TERSE = "INGEST_TERSE"
"""In the environment of what `up` runs on a terminal, beside the lines of events: our own log lines are warnings and
errors alone, without module and frames."""


OWN_SERVER = "INGEST_OWN_SERVER"
"""In the environment of what `up` runs beside a server of its own: that this one ended, and runs again, is said by what
starts it again, and by nobody else on a terminal."""

INDENT = 10 * " "
"""Of what stands below a line, since the line was too long: as wide as the time at its beginning."""

_LINE_OF_CODE = re.compile(r"(?<![\w/.])/(?:[^\s/:]+/)*([^\s/:]+/[^\s/:]+:[0-9]+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(rf"( *)((?:{_COLOURS.pattern}|[^ \x1b])+)")


def colours(stream: TextIO) -> bool:
    """True on a terminal that has colours, unless its user does without (https://no-color.org). As rich decides."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def is_terse() -> bool:
    return TERSE in os.environ


def has_own_server() -> bool:
    return OWN_SERVER in os.environ


def shortened(value: str) -> str:
    """A text without the working folder in front of the paths in it."""
    return value.replace(os.getcwd() + os.sep, "")


def shortened_lines(value: str) -> str:
    """A text in which the paths of lines of code are short: without the working folder, or else the last two parts."""

    def short(line: re.Match[str]) -> str:
        here = shortened(line[0])
        return line[1] if here == line[0] else here

    return _LINE_OF_CODE.sub(short, value)


def innermost(frames: Sequence[str]) -> str:
    """The one of these frames that says most where a call is: the innermost in the working folder, if there is one."""
    here = [shortened(frame) for frame in frames if frame.startswith(os.getcwd() + os.sep)]
    return here[-1] if here else frames[-1]


def clock(iso: str) -> str:
    """An ISO 8601 time of today as the clock here shows it."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")


def counted(count: int, one: str, several: str = "") -> str:
    """A number with its words: 1 event, 2 events. `several`: the words of any number but 1."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def when(then: datetime) -> str:
    """A local time as the clock here shows it: 14:03:59, and the date when it is not today's."""
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")


def fitted(text: str, stream: TextIO, at: int = 0) -> str:
    """A text for this stream: on a terminal broken between words at its width, elsewhere as it is.

    It begins in column `at`.
    """
    width = _width(stream)
    return "\n".join(_broken(line, width, 0 if n else at) for n, line in enumerate(text.split("\n"))) if width else text


def _width(stream: TextIO) -> int:
    """In columns; 0 where there is no terminal, or one that does not know."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):
        return 0


def _broken(line: str, width: int, column: int) -> str:
    """Only between words, and colours need no room. (textwrap knows no colours, and rich takes 4 MiB.)"""
    parts, gap = [], 0
    for spaces, word in _WORD.findall(line):
        gap += len(spaces)
        if not (size := len(_COLOURS.sub("", word))):
            parts.append(word)
            continue
        if column and column + gap + size > width:
            parts.append(f"\n{INDENT}")
            column, gap = len(INDENT), 0
        parts += [gap * " ", word]
        column, gap = column + gap + size, 0
    return "".join(parts)


def say(text: str) -> None:
    """Print it on standard output."""
    print(fitted(text, sys.stdout), flush=True)


def aside(text: str) -> None:
    """Print it on standard error: what is said beside a command's result, or why there is none."""
    print(fitted(text, sys.stderr), file=sys.stderr, flush=True)
