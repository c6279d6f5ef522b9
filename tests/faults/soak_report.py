"""What a soak has shown: what was handled, which hangs the log names, whether memory stayed flat."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

LOOK_SECONDS = 2.0
"""From one look at the processes to the next."""

NAMED_AS: Mapping[str, tuple[str, float, float]] = {
    "blocks": ("async handler blocks the event loop: all others stand still", 0.9, 5.0),
    "hangs_in_a_thread": ("handler hangs, its thread is replaced", 4.9, 12.0),
    "hangs_on_the_loop": ("handler hangs, this process is replaced", 4.9, 12.0),
}
"""The log's line for each handler that hangs, and after how many seconds it comes: at least, and at most in a process
that lives so long. The time limit is two seconds, the grace three; the rest is for a busy machine.
"""

_LATEST = 30.0  # seconds; a line that comes later names another hang
GROWTH = 1.10
"""Memory in the last third of the run may be so many times what it was in the second."""

YOUNG = 5.0
"""Seconds in which a process is only just starting: its memory does not count."""


class Hang(NamedTuple):
    """A call that began to hang: when (seconds since the epoch), in which process, and of which handler."""

    at: float
    pid: int
    handler: str


class Sample(NamedTuple):
    """The memory of a process, `at` seconds into the run, at that age: bytes."""

    at: float
    kind: str
    age: float
    rss: int


class Seen:
    """What the handlers wrote, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.handled: Counter[str] = Counter()
        self.hangs: list[Hang] = []

    def look(self) -> None:
        """Read what is new."""
        for path in self._folder.iterdir():
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._read[path] = self._read.get(path, 0) + len(whole) + 1
            for at, pid, what, id in map(json.loads, whole.splitlines()):
                if what == "handled":
                    self.handled[id] += 1
                else:
                    self.hangs.append(Hang(at, pid, what))


@dataclass
class Named:
    """Of the hangs of a handler: how many began, are in the log, or are not because their process ended before."""

    begun: int = 0
    named: int = 0
    ended: int = 0
    unnamed: list[Hang] = field(default_factory=list)


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; what is no JSON, such as a stack at the end of a process, is left out."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def named(
    hangs: Iterable[Hang], lines: Iterable[Mapping[str, Any]], last_seen: Mapping[int, float]
) -> dict[str, Named]:
    """Match each hang with a line of the log. `last_seen`: when each process was last seen alive."""
    said: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for line in lines:
        handler = str(line.get("handler", "")).rpartition(".")[2]
        said[handler, line["event"], line.get("pid", 0)].append(datetime.fromisoformat(line["timestamp"]).timestamp())
    found = {handler: Named() for handler in NAMED_AS}
    for hang in sorted(hangs):
        event, at_least, at_most = NAMED_AS[hang.handler]
        of_handler, times = found[hang.handler], said[hang.handler, event, hang.pid]
        of_handler.begun += 1
        seen = last_seen.get(hang.pid, 0.0)
        first, last = hang.at + at_least, min(hang.at + _LATEST, seen + LOOK_SECONDS + 1)
        line_at = next((at for at in times if first <= at <= last), None)
        if line_at is not None:
            times.remove(line_at)
            of_handler.named += 1
        elif seen < hang.at + at_most:
            of_handler.ended += 1
        else:
            of_handler.unnamed.append(hang)
    return found


class Memory(NamedTuple):
    """Median memory of a kind of process, in the second and the last third of the run, and the most: bytes."""

    second: float
    last: float
    most: int

    @property
    def growth(self) -> float:
        """1.0: none."""
        return self.last / self.second


def memory(samples: Sequence[Sample], seconds: float) -> dict[str, Memory]:
    """By kind of process; a kind is left out that has no samples in a third."""
    thirds: dict[str, tuple[list[int], list[int], list[int]]] = defaultdict(lambda: ([], [], []))
    for sample in samples:
        if sample.age > YOUNG and sample.at < seconds:
            thirds[sample.kind][int(3 * sample.at / seconds)].append(sample.rss)
    return {
        kind: Memory(median(second), median(last), max(*first, *second, *last))
        for kind, (first, second, last) in thirds.items()
        if second and last
    }


def complaints(lines: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """The log's warnings and errors, by level and event."""
    return Counter(
        (line["level"], line["event"]) for line in lines if line["level"] in ("warning", "error", "critical")
    )
