"""Where colours are printed."""

from __future__ import annotations

import io

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
