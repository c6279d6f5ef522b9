"""The lines that `tail`, and `up` on a terminal, show of what workers have handled: one for each event."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.text import Text

from ingest.telemetry.printable import printable
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


class EventLines:
    """Prints them; in colours on a terminal that has some, unless NO_COLOR is set."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False)

    def show(self, event: Told) -> None:
        """An event that has ended, and its body if that was asked for."""
        line = _line(event)
        business = Text(_GAP + printable(event["business"] or ""), style="dim")
        fits = len(line) + len(business) <= self._console.width
        if event["business"] and (fits or not self._console.is_terminal):
            line.append_text(business)
        self._console.print(line)
        if "body" in event:
            self._console.print(Text(10 * " " + printable(event["body"]), style="dim"))

    def more(self, count: int) -> None:
        """So many events are not shown."""
        self._console.print(Text(f"… {count:,} more", style="dim"))


def _line(event: Told) -> Text:
    outcome = _WORDS.get(event["outcome"], event["outcome"])
    ended = f"{outcome} (try {event['attempt']})" if event["attempt"] > 1 else outcome
    ms = f"{event['ms']:,.{0 if event['ms'] >= 10 else 1}f}"
    parts = [
        (f"{clock(event['at']):8}", "dim"),
        (f"{event['kind']} {event['type'] or '':{18 - len(event['kind'])}}", ""),
        (f"{event['contact'] or '-':5}", ""),
        (f"{ended:9}", COLOURS.get(event["outcome"], FAILURE)),
        (f"{ms:>5} ms", ""),
        (", ".join(event["handlers"]), ""),
        (event["error"].replace(os.getcwd() + os.sep, ""), "red"),
        (f"→ {event['answer']}" if "answer" in event else "", ""),
    ]
    return Text(_GAP).join(Text(printable(text), style=style) for text, style in parts if text)
