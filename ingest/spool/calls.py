"""Notes of calls: which spooled notifications go in one, and under which id, so that it can be repeated as it was.

When the answer to a call is lost, nobody here knows whether Redis carried it out. Redis does (`flush:ID`), if the call
comes again under its id. A note is a file in the spool's folder, `ID.call`, with a line for each segment: its name, and
the offsets between which the notifications lie. It is not synced: if the machine crashes, a call may be repeated under
another id.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ingest.store.segments import Segment, Spooled, records

_SUFFIX = ".call"
_LINE = re.compile(r"(\S+) (\d+) (\d+)")


def note(folder: Path, call: str, parts: Iterable[tuple[str, int, int]]) -> None:
    """Note a call before it is sent. Without room for a note, a repetition has another id."""
    with suppress(OSError):
        lines = "".join(f"{name} {start} {end}\n" for name, start, end in parts)
        (folder / f"{call}{_SUFFIX}").write_text(lines)


def forget(folder: Path, call: str) -> None:
    """Remove the note of a call whose outcome is known."""
    (folder / f"{call}{_SUFFIX}").unlink(missing_ok=True)


def parts_of(some: Iterable[Spooled]) -> list[tuple[str, int, int]]:
    """The parts of segments in which these notifications lie; they are the next ones of each."""
    ends = {spooled.segment: spooled.end for spooled in some}
    return [(segment.path.name, segment.offset, end) for segment, end in ends.items()]


def noted(folder: Path, segments: Iterable[Segment]) -> Iterator[tuple[str, list[Spooled]]]:
    """The calls that may have been carried out, the oldest first: id and notifications, in the order of the call.

    A note that does not fit what is left of the segments is removed. Handle each call before the next is read.
    """
    by_name = {segment.path.name: segment for segment in segments}
    files = [file for file in folder.iterdir() if file.suffix == _SUFFIX]
    for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name)):
        if some := _read(file.read_text(), by_name):
            yield file.stem, some
        else:
            file.unlink(missing_ok=True)


def _read(lines: str, by_name: dict[str, Segment]) -> list[Spooled]:
    streams = []
    for line in lines.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            return []
        segment, start, end = by_name.get(found[1]), int(found[2]), int(found[3])
        if segment is None or segment.offset >= end:  # Redis has it
            continue
        if segment.offset != start or segment.size < end:
            return []
        streams.append(_until(end, segment))
    return list(heapq.merge(*streams, key=lambda spooled: spooled[:2]))


def _until(end: int, segment: Segment) -> Iterator[Spooled]:
    return itertools.takewhile(lambda spooled: spooled.end <= end, records(segment))
