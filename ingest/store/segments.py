"""The files of the spool: the format of a segment, how records are written, read back and set aside.

A segment is a preamble and then records, in the order they were spooled. One process writes it. A crash may leave a
torn record at the end, whose sender got no 200; anything else that cannot be read is set aside, never skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple

from google_crc32c import extend, value

from ingest.loggers import get_logger
from ingest.store.disk import sync, sync_folder, write_all

log = get_logger(__name__)

SUFFIX, CORRUPT = ".spool", ".corrupt"

_CRC = Struct(">I")

# Preamble: notifications written, for figures only; then how far the segment is replayed: offset of the next record,
# notifications, arrival of the last (ms), CRC32C. A process that takes over the replay continues there.
_WRITTEN = Struct(">Q")
_REPLAYED = Struct(">QQQ")
FIRST = _WRITTEN.size + _REPLAYED.size + _CRC.size
"""Offset of the first record."""

# Record: magic, length of the body, arrival (ms), time of spooling (ns), CRC32C of the body; CRC32C of all this; the
# body, as it is kept (`ingest.store.headers`). The header has a CRC of its own, so that a record whose length is
# damaged is not taken for one that is torn.
_MAGIC = b"\xf5wa1"  # 0xF5 is in no UTF-8 text
_HEADER = Struct(">4sIQQI")
_HEAD = _HEADER.size + _CRC.size


@dataclass(eq=False)
class Segment:
    """A segment as it is at one moment: its length, and how far it is replayed."""

    path: Path
    size: int
    written: int = 0
    offset: int = FIRST
    replayed: int = 0
    oldest_ms: int = 0
    """Arrival of the first record, or of the last one that was replayed; 0 when unknown."""


class Spooled(NamedTuple):
    """A notification on the disk: its body as it is kept (`ingest.store.headers`). `end` is the offset after it."""

    received_ms: int
    spooled_ns: int
    kept: bytes
    segment: Segment
    end: int


class Writer:
    """The segment that this process appends to."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.path = path
        self._seed = _seed(path)
        self._count = 0
        self.length = FIRST

    def removed(self) -> bool:
        """True when it was replayed and removed."""
        return os.fstat(self._fd).st_nlink == 0

    def write(self, notifications: Sequence[tuple[int, bytes]]) -> None:
        """Add these, each (arrival in ms, body). After an OSError, `cut` takes back what was written of them."""
        now = time.time_ns()
        parts: list[bytes] = []
        for received_ms, body in notifications:
            header = _HEADER.pack(_MAGIC, len(body), received_ms, now, value(body))
            parts += (header, _CRC.pack(extend(self._seed, header)), body)
        length = write_all(self._fd, b"".join(parts), self.length)
        self._count += len(notifications)
        write_all(self._fd, _WRITTEN.pack(self._count), 0)
        self.length = length

    def sync(self, is_new: bool) -> None:
        """Return when all that was written is on the disk, and a new segment's name too."""
        sync(self._fd)
        if is_new:
            sync_folder(self.path.parent)

    def cut(self, length: int) -> None:
        """Take back what was written beyond that length."""
        os.ftruncate(self._fd, length)
        self.length = length

    def close(self) -> None:
        os.close(self._fd)


def paths(folder: Path) -> list[Path]:
    """The segments: each writer's together, in the order they were written."""
    names = os.listdir(folder) if folder.exists() else []
    return [folder / name for name in sorted(names) if name.endswith(SUFFIX)]


def look(path: Path) -> Segment:
    """The segment as it is now."""
    with path.open("rb") as file:
        segment = Segment(path, os.fstat(file.fileno()).st_size)
        preamble, head = file.read(FIRST), file.read(_HEAD)
    if len(preamble) == FIRST:
        (segment.written,) = _WRITTEN.unpack_from(preamble)
        if first := _header(head, _seed(path)):
            segment.oldest_ms = first[1]
        replayed, crc = preamble[_WRITTEN.size : -_CRC.size], preamble[-_CRC.size :]
        if _CRC.pack(extend(_seed(path), replayed)) == crc:
            segment.offset, segment.replayed, segment.oldest_ms = _REPLAYED.unpack(replayed)
    return segment


def note(segment: Segment) -> None:
    """Write down how far the segment is replayed. Not synced: if the machine crashes, a part is replayed twice."""
    replayed = _REPLAYED.pack(segment.offset, segment.replayed, segment.oldest_ms)
    with segment.path.open("r+b") as file:
        file.seek(_WRITTEN.size)
        file.write(replayed + _CRC.pack(extend(_seed(segment.path), replayed)))


def records(segment: Segment) -> Iterator[Spooled]:
    """The records from the segment's offset on. A torn end, whose sender got no 200, is left out."""
    at, seed = segment.offset, _seed(segment.path)
    with segment.path.open("rb", buffering=1 << 18) as file:
        while at + _HEAD <= segment.size:
            file.seek(at)
            head = file.read(_HEAD)
            if len(head) < _HEAD:  # cut meanwhile, after a failed sync
                return
            header = _header(head, seed)
            if header is None:
                end = _next_header(file, at + 1, segment.size, seed)
                _set_aside(segment, file, at, end)
            else:
                length, received_ms, spooled_ns, crc = header
                end = at + _HEAD + length
                body = file.read(length) if end <= segment.size else b""
                if len(body) < length:
                    return
                if value(body) == crc:
                    yield Spooled(received_ms, spooled_ns, body, segment, end)
                else:
                    _set_aside(segment, file, at, end)
            at = end


def _header(head: bytes, seed: int) -> tuple[int, int, int, int] | None:
    """Length, arrival, time of spooling and the body's CRC, or None when these bytes begin no record."""
    header, crc = head[: _HEADER.size], head[_HEADER.size :]
    if not header.startswith(_MAGIC) or _CRC.pack(extend(seed, header)) != crc:
        return None
    _, length, received_ms, spooled_ns, body_crc = _HEADER.unpack(header)
    return length, received_ms, spooled_ns, body_crc


def _next_header(file: BinaryIO, start: int, size: int, seed: int) -> int:
    """Where the next record begins, or the end."""
    file.seek(start)
    rest = file.read(size - start)
    found = rest.find(_MAGIC)
    while found >= 0 and _header(rest[found : found + _HEAD], seed) is None:
        found = rest.find(_MAGIC, found + 1)
    return start + found if found >= 0 else size


def _set_aside(segment: Segment, file: BinaryIO, start: int, end: int) -> None:
    """Copy damaged bytes into a file of their own, unless an earlier read did so."""
    target = segment.path.with_suffix(f".{start}{CORRUPT}")
    if target.exists() and target.stat().st_size == end - start:
        return
    file.seek(start)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, file.read(end - start), 0)
        sync(fd)
    finally:
        os.close(fd)
    sync_folder(target.parent)
    log.error("the spool is damaged, a part is set aside", file=target.name, bytes=end - start)


def _seed(path: Path) -> int:
    """Initial value of the headers' CRC: another in each file, so that no body can contain a valid record."""
    seed: int = value(path.name.encode())
    return seed
