"""The lines that `tail`, and `up` on a terminal, show of what workers have handled: one for each event."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ingest.telemetry.printable import printable
from ingest.terminal import shortened
from workers.cli.terminal import clock

Told = dict[str, Any]
"""What workers tell of an event, see `workers.engine.telling`."""

COLOURS = {
    "handled": "green",
    **dict.fromkeys(("unhandled", "duplicate", "superseded"), "dim"),
    **dict.fromkeys(("discarded", "snoozed", "put_off", "behind"), "yellow"),
}
"""Of outcomes that are no failure."""

FAILURE = "bold red"

_WORDS = {"put_off": "waits"}
"""What a line says of outcomes whose name says little."""

_GAP = "  "
_WIDTHS = {"time": 8, "event": 19, "contact": 7, "outcome": 9, "took": 8, "handler": 0}
INDENT = 10 * " "
"""As wide as the time."""


class EventLines:
    """Prints them; in colours on a terminal that has some, unless NO_COLOR is set."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._has_headings = not self._console.is_terminal

    def show(self, event: Told) -> None:
        """An event that has ended, and its body if that was asked for."""
        line = _line(event)
        error = Text(printable(_errors(event)), style="red")
        answer = Text(f"→ {event['answer']}" if "answer" in event else "")
        business = Text(printable(f"business {event['business']}" if event["business"] else ""), style="dim")
        below = []
        for part in filter(None, (error, answer, business)):
            if not self._console.is_terminal or len(line) + len(_GAP) + len(part) <= self._console.width:
                line.append(_GAP).append_text(part)
            elif part is not business:
                below.append(part)
        if "body" in event:
            below.append(Text(printable(event["body"]), style="dim"))
        if not self._has_headings:
            self._has_headings = True
            self._console.print(_GAP.join(name.ljust(width) for name, width in _WIDTHS.items()), style="dim")
        self._console.print(line)
        for part in below:
            self._console.print(Text(INDENT).append_text(part))

    def note(self, text: str) -> None:
        """What is to be said of several events."""
        self._console.print(Text(printable(text), style="dim"))

    def more(self, count: int) -> None:
        """So many events are not shown."""
        self.note(f"… {count:,} more")


def _errors(event: Told) -> str:
    """What went wrong; with the handler's name, where there are several."""
    failed: dict[str, str] = event.get("failed", {})
    if len(event["handlers"]) > 1 and failed:
        return "; ".join(f"{name}: {shortened(error)}" for name, error in failed.items())
    return shortened(event["error"])


def _line(event: Told) -> Text:
    waits_for = event.get("waits_for", [])
    called = [name for name in event["handlers"] if name not in waits_for]
    outcome = _WORDS.get(event["outcome"]) or event["outcome"]
    handlers = ", ".join(called or waits_for) or "-"
    if called and waits_for:
        outcome = "handled" if event["outcome"] == "put_off" else outcome
        handlers += f"; waits for {', '.join(waits_for)}"
    ended = f"{outcome} (try {event['attempt']})" if event["attempt"] > 1 else outcome
    ms = f"{event['ms']:,.{0 if event['ms'] >= 10 else 1}f}"
    parts = [
        (clock(event["at"]), "dim"),
        (f"{event['kind']} {event['type'] or ''}", ""),
        (event["contact"] or "-", ""),
        (ended, COLOURS.get(event["outcome"], FAILURE)),
        (f"{ms:>5} ms", ""),
        (handlers, ""),
    ]
    cells = zip(parts, _WIDTHS.values(), strict=True)
    return Text(_GAP).join(Text(printable(text.ljust(width)), style=style) for (text, style), width in cells)
