"""When Python looks for cycles of objects: seldom by their count, which takes time, and in time by their memory."""

from __future__ import annotations

import gc
import resource
import time

OF_RECEIVER = 50_000
"""New objects between two looks. Reference counts free what a batch or a body makes, and with Python's own threshold,
looking for cycles took a seventh of a worker's time."""

OF_WORKER = 500_000
"""A worker's, which looks at its memory, too (`Growth`). With a hand full of events it has a few hundred thousand new
objects, none of them garbage: ten times as many looks took a twelfth of its time."""

_EVERY = 0.01  # seconds

_GROWTH = 50 << 20
"""Bytes by which the process may grow between two looks: a few large objects in cycles are few by their count."""


def start(count: int) -> None:
    """Leave what exists now alone, and from now on look each time there are so many new objects."""
    gc.freeze()
    gc.set_threshold(count)


def resident() -> int:
    """Bytes of memory that this process holds now; without /proc, the most it ever held."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


class Growth:
    """Watches how much memory the process holds."""

    def __init__(self) -> None:
        self._after = resident()  # the last collection
        self._next = 0.0

    def look(self) -> None:
        """Collect cycles if the process has grown. To be called often: it takes some microseconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        now = resident()
        if now - self._after > _GROWTH:
            gc.collect()
            self._after = resident()
        elif now < self._after:
            self._after = now
