"""Figures of the disk spool, read from its files by any process that may read the folder."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingest.store.segments import CORRUPT, look, paths


@dataclass
class SpoolFigures:
    """What is in the folder and not yet in Redis; `corrupt` counts the parts set aside."""

    notifications: int = 0
    bytes: int = 0
    oldest_seconds: float = 0.0
    corrupt: int = 0


def spool_figures(folder: Path) -> SpoolFigures:
    """What the folder holds at this moment. Cost: one short read per segment. Raises OSError."""
    now = SpoolFigures(corrupt=sum(path.suffix == CORRUPT for path in folder.iterdir()) if folder.exists() else 0)
    for path in paths(folder):
        with suppress(FileNotFoundError):  # replayed meanwhile
            segment = look(path)
            if segment.offset >= segment.size:
                continue
            now.notifications += segment.written - segment.replayed
            now.bytes += segment.size - segment.offset
            if segment.oldest_ms:
                now.oldest_seconds = max(now.oldest_seconds, round(time.time() - segment.oldest_ms / 1000, 3))
    return now
