"""The disk spool: notifications that Redis could not take, in a folder that all receiver processes share.

| in the folder | is |
|---|---|
| `WRITER-NUMBER.spool` | a segment (`ingest.store.segments`) |
| `WRITER-NUMBER.OFFSET.corrupt` | damaged bytes of a segment, set aside for a person to look at |
| `replay.lock` | locked by the one process that replays |

The folder itself is locked too: shared while a process decides to append and writes, exclusively while all have to wait
for the one that replays. All locks are the kernel's (flock): they end with their holder.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import itertools
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ingest.store import disk
from ingest.store.segments import FIRST, SUFFIX, Segment, Spooled, Writer, look, note, paths, records

SEGMENT_BYTES = 16 << 20
"""A segment takes no more once it is this long. Only whole segments are removed."""

LOCK_SECONDS = 5.0
"""How long to wait for the folder's lock. Nobody holds it longer than some Redis calls take, unless frozen."""

_SETTLED_NS = 2_000_000_000  # a folder that changed longer ago shows every change by its time, however coarse that is


class Spool:
    """The folder, for a receiver process. Raises OSError when it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700, parents=True)
        try:
            disk.try_to_write(self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # what fills the disk may be what is to be replayed
                raise
        disk.sync_folder(self.folder.parent)
        self._role = self.folder / "replay.lock"
        self._role.touch(mode=0o600)
        self._name = f"{time.time_ns():x}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._writer: Writer | None = None
        self._changed_ns = 0
        self._empty = False

    def empty(self) -> bool:
        """True when nobody has anything to replay. Cost: one stat, unless the folder has changed lately."""
        try:
            changed_ns = os.stat(self.folder).st_mtime_ns
        except OSError:
            return True  # the spool is for when Redis fails; that it fails itself must not keep anything from Redis
        if changed_ns != self._changed_ns:
            self._empty = not paths(self.folder)
            self._changed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else 0
        return self._empty

    def append(self, notifications: Sequence[tuple[int, bytes]], unless_empty: bool = False) -> bool:
        """Return when the notifications, each (arrival in ms, body), are on the disk. OSError: they are not.

        With `unless_empty`, when nobody has anything to replay any more, nothing is kept and False returned.
        """
        with self._locked(fcntl.LOCK_SH):
            if unless_empty and not paths(self.folder):
                return False
            if self._writer is not None and (self._writer.length >= SEGMENT_BYTES or self._writer.removed()):
                self._abandon()
            if self._writer is None:
                self._writer = Writer(self.folder / f"{self._name}-{next(self._numbers):06}{SUFFIX}")
            writer, good = self._writer, self._writer.length
            try:
                writer.write(notifications)
            except OSError:
                try:
                    writer.cut(good)
                except OSError:
                    self._abandon()
                raise
        # Not under the lock: nobody waits for another's disk. What is replayed and removed meanwhile, Redis has.
        try:
            writer.sync(is_new=good == FIRST)
        except OSError:
            with suppress(OSError):
                writer.cut(good)
            self._abandon()  # after a failed sync nobody knows what is on the disk
            raise
        return True

    def _abandon(self) -> None:
        """Write to this segment no more; what is good in it will be replayed."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @contextmanager
    def replaying(self) -> Iterator[bool]:
        """Be the one process that replays; False when another is."""
        fd = os.open(self._role, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    @contextmanager
    def appends_stopped(self) -> Iterator[None]:
        """Nobody, in any process, appends or decides to do so."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def unreplayed(self) -> list[Segment]:
        """The segments with something left to replay; the others are removed. Call it while appends are stopped."""
        left = []
        for path in paths(self.folder):
            segment = look(path)
            if segment.offset < segment.size:
                left.append(segment)
            else:
                os.truncate(path, 0)  # its writer may keep it open until the next append, but not the room it took
                path.unlink()
        return left

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _lock(fd, how):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "another process keeps the folder locked")
                time.sleep(0.002)
            yield
        finally:
            os.close(fd)


def read(segments: list[Segment]) -> Iterator[Spooled]:
    """What is left in these segments, in order of arrival; in the segments of one process, in the order it spooled.

    Damaged parts are set aside on the way.
    """
    by_writer = itertools.groupby(segments, key=lambda segment: segment.path.name.rpartition("-")[0])
    streams = [itertools.chain.from_iterable(map(records, list(group))) for _, group in by_writer]
    return heapq.merge(*streams, key=lambda spooled: spooled[:2])


def note_replayed(some: list[Spooled]) -> None:
    """Redis has these, the next in the order of `read`: they are not read again."""
    segments = set()
    for spooled in some:
        segment = spooled.segment
        segment.offset, segment.oldest_ms = spooled.end, spooled.received_ms
        segment.replayed += 1
        segments.add(segment)
    for segment in segments:
        note(segment)


def note_read(segments: list[Segment]) -> None:
    """All of `read(segments)` is in Redis: also a damaged or torn end is not read again."""
    for segment in segments:
        segment.offset = segment.size
        note(segment)


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
