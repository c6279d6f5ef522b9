"""The last minutes of a backlog in a few characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ingest.state.history import Sample

SECONDS = 1800.0
"""What a line spans."""

_WIDTH = 20
_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*%#"


class Lines:
    """What waited, per lane: the largest of each slot of time. Bounded: slots that are too old are forgotten."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._slots: dict[str, dict[int, int]] = {}
        for sample in samples:
            for lane, point in sample.lanes.items():
                self.add(lane, sample.time, point.waiting)

    def add(self, lane: str, time: float, waiting: int) -> None:
        """Note what waits in a lane at a time (seconds since the epoch)."""
        slots = self._slots.setdefault(lane, {})
        slot = _slot(time)
        slots[slot] = max(waiting, slots.get(slot, 0))
        for old in [one for one in slots if one <= max(slots) - _WIDTH]:
            del slots[old]

    def draw(self, lane: str, waiting: int, now: float, encoding: str) -> str:
        """Note what waits now, and give the line up to it: a character for each slot, a blank where nobody looked."""
        self.add(lane, now, waiting)
        slots = self._slots[lane]
        return sparkline([slots.get(_slot(now) - back) for back in reversed(range(_WIDTH))], encoding)


def sparkline(values: Sequence[int | None], encoding: str) -> str:
    """Each value as a character, from nothing to the largest; plain ones where the encoding has no blocks."""
    try:
        _BLOCKS.encode(encoding)
        marks = _BLOCKS
    except (UnicodeEncodeError, LookupError):
        marks = _PLAIN
    most = max((value for value in values if value is not None), default=0)
    return "".join(
        " " if value is None else marks[-(-value * (len(marks) - 1) // most) if most else 0] for value in values
    )


def _slot(time: float) -> int:
    return int(time * _WIDTH / SECONDS)
