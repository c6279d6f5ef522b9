"""The disk spool: notifications that Redis could not take, in a folder that all receiver processes share.

| in the folder | is |
|---|---|
| `WRITER-NUMBER.spool` | a segment (`ingest.store.segments`) |
| `ID.call` | the note of a call whose outcome is not known (`ingest.spool.calls`) |
| `WRITER-NUMBER.OFFSET.corrupt` | damaged bytes of a segment, set aside for a person to look at |
| `replay.lock` | locked by the one process that replays |

The folder itself is locked too: shared while a process decides to append and writes, exclusively while the one that
replays has to stop appends. All locks are the kernel's (flock), which releases them when their holder dies.
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

from ingest.spool import calls
from ingest.store import disk
from ingest.store.segments import FIRST, SUFFIX, Segment, Spooled, Writer, look, note, paths, records

SEGMENT_BYTES = 16 << 20
"""A segment takes no more once it is this long. Only whole segments are removed."""

LOCK_SECONDS = 5.0
"""How long to wait for the folder's lock. A process holds it for a few Redis calls at most, unless it is frozen."""

_SETTLED_NS = (
    2_000_000_000  # after this long, a further change gets another mtime, however coarse the clock of the file system
)


class Spool:
    """The folder, for a receiver process. Raises OSError when it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700, parents=True)
        try:
            disk.try_to_write(self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # notifications to replay may be what fills it
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
            return True  # a broken spool must not keep notifications from Redis
        if changed_ns != self._changed_ns:
            self._empty = not paths(self.folder)
            self._changed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else 0
        return self._empty

    def append(self, notifications: Sequence[tuple[int, bytes]], unless_empty: bool = False, call: str = "") -> bool:
        """Return True when these, each (arrival in ms, body as kept), are on the disk. Raises OSError if not.

        With `unless_empty`, keeps nothing and returns False when no process has anything left to replay. `call` is the
        id of the one in which they were sent to Redis, which may have carried it out.
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
            if call:
                calls.note(self.folder, call, [(writer.path.name, good, writer.length)])
        # Not under the lock: no process waits for another's sync. A segment removed meanwhile is in Redis.
        try:
            writer.sync(is_new=good == FIRST)
        except OSError:
            with suppress(OSError):
                writer.cut(good)
            self._abandon()  # after a failed sync nobody knows what is on the disk
            raise
        return True

    def _abandon(self) -> None:
        """Stop writing to this segment; its good records will be replayed."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @contextmanager
    def replaying(self) -> Iterator[bool]:
        """Become the one process that replays. Yields False when another one is."""
        fd = os.open(self._role, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)

    @contextmanager
    def appends_stopped(self) -> Iterator[None]:
        """Meanwhile no process appends, or decides to."""
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
                os.truncate(path, 0)  # frees the disk now, though its writer may keep it open until the next append
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
    """The notifications left in these segments, in order of arrival; those of one process in the order it spooled.

    Sets damaged parts aside on the way.
    """
    by_writer = itertools.groupby(segments, key=lambda segment: segment.path.name.rpartition("-")[0])
    streams = [itertools.chain.from_iterable(map(records, list(group))) for _, group in by_writer]
    return heapq.merge(*streams, key=lambda spooled: spooled[:2])


def note_replayed(some: list[Spooled]) -> None:
    """Note that Redis has these, the next in the order of `read`, so that they are not read again."""
    segments = set()
    for spooled in some:
        segment = spooled.segment
        segment.offset, segment.oldest_ms = spooled.end, spooled.received_ms
        segment.replayed += 1
        segments.add(segment)
    for segment in segments:
        note(segment)


def note_read(segments: list[Segment]) -> None:
    """Note that Redis has all of `read(segments)`, so that a damaged or torn end is not read again either."""
    for segment in segments:
        segment.offset = segment.size
        note(segment)


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
