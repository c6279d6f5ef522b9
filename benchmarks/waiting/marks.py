"""When the handler of each event began and ended, in a file that all processes of a worker map into memory.

Two numbers of 8 bytes for each event: CLOCK_MONOTONIC seconds, 0 where it has not happened. Peers import this too, so
it imports nothing that needs installing.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from pathlib import Path
from time import monotonic
from typing import NamedTuple

_TIME = struct.Struct("d")
_SIZE = 2 * _TIME.size


class Times(NamedTuple):
    """In order of the events' numbers; 0 where it has not happened."""

    began: array[float]
    ended: array[float]


class Marks:
    """The file as handlers write it and the harness reads it."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0)

    def began(self, number: int) -> None:
        """The first time counts: an event that is tried again has begun before."""
        if not _TIME.unpack_from(self._memory, number * _SIZE)[0]:
            _TIME.pack_into(self._memory, number * _SIZE, monotonic())

    def ended(self, number: int) -> None:
        _TIME.pack_into(self._memory, number * _SIZE + _TIME.size, monotonic())

    def read(self) -> Times:
        both = array("d", self._memory[:])
        return Times(both[::2], both[1::2])


def create(file: Path, count: int) -> Marks:
    """A file for `count` events of which none has begun."""
    file.write_bytes(bytes(count * _SIZE))
    return Marks(file)
