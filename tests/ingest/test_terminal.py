"""What is printed on a terminal, and in which words."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import termios
from pathlib import Path

import pytest
from rich.console import Console

from ingest import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "unknown"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_as_rich_decides(environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there are colours unless it has none or NO_COLOR is set, as in what rich prints; elsewhere none."""
    for name in ("TERM", "NO_COLOR", "COLORTERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.colours(Terminal()) is wanted
    rich = Console(file=Terminal())
    assert (rich.color_system is not None and not rich.no_color) is wanted
    assert not terminal.colours(io.StringIO())


def on_screen(text: str, columns: int, at: int = 0) -> str:
    """A text as it is printed on a terminal so wide."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        with open(its, "w") as stream:
            return terminal.fitted(text, stream, at)
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("it all fits in 20 co", ["it all fits in 20 co"]),
        ("one more than it has: end", ["one more than it", "has: end"]),
        ("\x1b[1mone more\x1b[0m than it has: end", ["\x1b[1mone more\x1b[0m than it", "has: end"]),
        ("padded     \x1b[0m     and more", ["padded\x1b[0m          and", "more"]),
        ("see /a/path/that/is/longer there", ["see", "/a/path/that/is/longer", "there"]),
        ("  its own\n  spaces stay", ["  its own\n  spaces stay"]),
        ("", [""]),
    ],
)
def test_broken_between_words(text: str, lines: list[str]) -> None:
    """On a terminal a line that is too long goes on below, in whole words; colours need no room."""
    assert on_screen(text, 20) == f"\n{terminal.INDENT}".join(lines)


def test_what_is_not_broken() -> None:
    """A text stays as it is in a pipe, and on a terminal that does not know its width."""
    text = "one more than it has: end"
    assert terminal.fitted(text, io.StringIO()) == terminal.fitted(text, Terminal()) == on_screen(text, 0) == text


def test_what_stands_before_a_text() -> None:
    """It takes room in the first line."""
    assert on_screen("it fits", 10, at=4) == f"it\n{terminal.INDENT}fits"


def test_a_number_with_its_words() -> None:
    """One is singular, any other number is not."""
    assert [terminal.counted(n, "event") for n in (0, 1, 1200)] == ["0 events", "1 event", "1,200 events"]
    assert [terminal.counted(n, "event waits", "events wait") for n in (1, 2)] == ["1 event waits", "2 events wait"]


def test_lines_of_code_are_shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path in the working folder stands without it, another one with its last two parts; all else is as it was."""
    monkeypatch.chdir(tmp_path)
    for text, short in {
        f"KeyError at {tmp_path}/bot.py:44, for 2m": "KeyError at bot.py:44, for 2m",
        "(5 KeyError at /srv/shop/mybot/bot.py:44)": "(5 KeyError at mybot/bot.py:44)",
        "at /bot.py:44": "at /bot.py:44",
        f"Look at {tmp_path}/spool": f"Look at {tmp_path}/spool",
        "http://crm.local/a/b:80 and /var/spool/wa": "http://crm.local/a/b:80 and /var/spool/wa",
    }.items():
        assert terminal.shortened_lines(text) == short
