"""The lines that `tail`, and `up` on a terminal, show of what workers have handled: one for each event."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ingest.telemetry.printable import printable, printable_line
from ingest.terminal import INDENT, shortened
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

_NOBODY = {"duplicate": "a copy of what came before", "unhandled": "no handler takes it"}
"""Why no handler was called."""

_GAP = "  "
_WIDTHS = {"time": 8, "event": 19, "contact": 7, "outcome": 10, "took": 8, "handler": 0}


class EventLines:
    """Prints them; in colours on a terminal that has some, unless NO_COLOR is set."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._has_headings = not self._console.is_terminal

    def show(self, event: Told) -> None:
        """An event that has ended, and its body if that was asked for.

        On a terminal what does not fit beside the columns stands below them, in whole words.
        """
        line = _columns(event)
        error = Text(printable_line(_errors(event)), style="red")
        answer = Text(printable_line(f"→ {event['answer']}" if "answer" in event else ""))
        business = Text(printable(f"business {event['business']}" if event["business"] else ""), style="dim")
        below: list[Text] = []
        for part in filter(None, (Text(printable(_handlers(event))), error, answer, business)):
            fits = line.cell_len + len(_GAP) + part.cell_len <= self._console.width
            if not self._console.is_terminal or (fits and not below):
                line.append(_GAP).append_text(part)
            elif part is not business:
                below.append(part)
        if "body" in event:
            below.append(Text(printable(event["body"]), style="dim"))
        if not self._has_headings:
            self._has_headings = True
            self._console.print(_GAP.join(name.ljust(width) for name, width in _WIDTHS.items()), style="dim")
        self._print(line)
        for part in below:
            self._print(part, INDENT)

    def _print(self, text: Text, indent: str = "") -> None:
        """In whole words on a terminal, elsewhere in one line."""
        room = self._console.width - len(indent) if self._console.is_terminal else text.cell_len
        for line in text.wrap(self._console, max(1, room)):
            self._console.print(Text(indent).append_text(line))

    def note(self, text: str, indent: str = INDENT) -> None:
        """What is to be said of several events, or below one."""
        self._print(Text(printable(text), style="dim"), indent)

    def more(self, count: int) -> None:
        """So many events are not shown."""
        self.note(f"… {count:,} more", indent="")


def _errors(event: Told) -> str:
    """What went wrong; with the handler's name, where there are several."""
    failed: dict[str, str] = event.get("failed", {})
    if len(event["handlers"]) > 1 and failed:
        return "; ".join(f"{name}: {shortened(error)}" for name, error in failed.items())
    return shortened(event["error"])


def _called(event: Told) -> list[str]:
    waits_for = event.get("waits_for", [])
    return [name for name in event["handlers"] if name not in waits_for]


def _handlers(event: Told) -> str:
    """Who was called or is waited for, and from the second try on, which one it is."""
    called, waits_for = _called(event), event.get("waits_for", [])
    handlers = ", ".join(called or waits_for) or _NOBODY.get(event["outcome"], "-")
    if called and waits_for:
        handlers += f"; waits for {', '.join(waits_for)}"
    return f"try {event['attempt']}: {handlers}" if event["attempt"] > 1 else handlers


def _columns(event: Told) -> Text:
    """What an event is and how it ended, up to the handlers."""
    outcome: str = event["outcome"]
    if event.get("dead"):
        outcome = "dead"
    elif outcome == "put_off" and event.get("waits_for") and _called(event):
        outcome = "handled"
    ms = f"{event['ms']:,.{0 if event['ms'] >= 10 else 1}f}"
    cells = [
        Text(clock(event["at"]), style="dim"),
        Text(printable(f"{event['kind']} {event['type'] or ''}")),
        Text(printable(event["contact"] or "-")),
        Text(printable(_WORDS.get(outcome, outcome)), style=COLOURS.get(event["outcome"], FAILURE)),
        Text(f"{ms:>5} ms"),
    ]
    for cell, width in zip(cells, _WIDTHS.values(), strict=False):  # the handlers have what is left
        cell.pad_right(max(0, width - cell.cell_len))
    return Text(_GAP).join(cells)
