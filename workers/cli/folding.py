"""What `up` shows of handlers that are held up: that it begins, and that it has ended, not each event that waits."""

from __future__ import annotations

from collections import Counter

from workers.cli.event_lines import EventLines, Told

_HINTS = {
    "failed": "text and traceback: WA_LOG_ERRORS=full",
    "dead": "a dead letter: `wa-ingest dead causes` says why, `wa-ingest dead retry` has it handled again",
}
"""What is said below the first event that ends so."""


class FoldedLines:
    """A line for each event that handlers were called for. Of those that only wait for a handler, the first one has a
    line; when it is called again, a line says how many waited.
    """

    def __init__(self, full: bool = False) -> None:
        """`full`: the text of exceptions is in the log."""
        self._lines = EventLines()
        self._hints = {what: hint for what, hint in _HINTS.items() if what != "failed" or not full}
        self._waiting: Counter[str] = Counter()  # by handler

    def show(self, event: Told) -> None:
        """An event that has ended, or waits."""
        waits_for = event.get("waits_for", [])
        called = [name for name in event["handlers"] if name not in waits_for]
        if event["outcome"] in ("handled", "discarded"):
            for name in called:
                self._works(name)
        begins = [name for name in waits_for if name not in self._waiting]
        self._waiting.update(waits_for)
        if called or begins or event["outcome"] != "put_off":
            self._lines.show(event)
        if event["outcome"] == "failed" and " at " in event["error"]:  # an exception, and no answer of a destination
            self._hint("failed")
        if event.get("dead"):
            self._hint("dead")

    def more(self, count: int) -> None:
        """So many events are not shown."""
        self._lines.more(count)

    def _hint(self, what: str) -> None:
        if hint := self._hints.pop(what, ""):
            self._lines.note(hint)

    def _works(self, name: str) -> None:
        if self._waiting.pop(name, 0) > 1:
            self._lines.note(f"{name} gets events again, what has waited for it first")
