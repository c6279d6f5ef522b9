"""The archive: every notification that was settled, byte for byte, in compressed files by hour of arrival.

`2026-11-21/14-WORKER-N.zst` in the folder holds what arrived between 14:00 and 15:00 UTC and was settled by one worker
process, which writes it. Such a file is made of blocks, one for each settle: a skippable zstd frame that says what the
block holds, then a zstd frame of records. So `zstd -dc` reads it, and counting needs only the first frames.

A block is on the disk before its notifications are settled. A crash may leave a torn block at the end, of which nothing
was settled; and if a worker crashes between archive and settle, the next one archives the notification again.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from google_crc32c import value
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from ingest.loggers import get_logger
from ingest.settings import SettingsError
from ingest.store.disk import sync, sync_folder, write_all
from ingest.terminal import counted

log = get_logger(__name__)

HOUR_MS = 3_600_000

WAIT_SECONDS = 1.0
"""How long to wait before the next try while the disk takes nothing."""

_WRITE_SECONDS = 0.05
"""A file that ends within a block and does not change for this long is not being written."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME = re.compile(r"\d{2}-.*\.zst")
_FULL = (errno.ENOSPC, errno.EDQUOT)

# What a block holds: records, their bytes, arrival of the first and of the last (ms), bytes of the frame behind it;
# CRC32C of this.
_HOLDS = Struct(">IQQQI")
_CRC = Struct(">I")
_MAGIC = Struct("<II4s").pack(0x184D2A5F, 4 + _HOLDS.size + _CRC.size, b"wa-1")  # zstd's for a frame to be skipped
HEAD = len(_MAGIC) + _HOLDS.size + _CRC.size

_RECORD = Struct(">QI")  # arrival (ms), length; then the body as it is kept (ingest/store/headers.py)

Tell = Callable[[str], None]
"""Gets one line for each file that cannot be read whole."""


class Block(NamedTuple):
    """What one settle wrote. `bytes` are those of its records, before compression; `length` is what they take."""

    first_ms: int
    path: Path
    offset: int
    length: int
    notifications: int
    bytes: int
    last_ms: int

    @property
    def body_bytes(self) -> int:
        return self.bytes - self.notifications * _RECORD.size


class Archive:
    """The folder, for one worker process. Raises SettingsError when nothing can ever be written there."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder.absolute()
        self._worker = worker
        self._number = 0
        self._compressor = ZstdCompressor(write_checksum=True)
        self._failing = False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
            sync_folder(self._folder.parent)
        except OSError as error:
            if error.errno not in _FULL:
                raise SettingsError(f"WA_ARCHIVE_DIR: cannot write to {folder}: {error.strerror}") from None

    def keep(self, notifications: list[tuple[int, bytes]], wait: Callable[[], bool]) -> bool:
        """Write these, each (arrival in ms, body as kept). True once they are on the disk.

        If the disk refuses them, it tries again while `wait()` is True; then it returns False, and none is kept.
        """
        while notifications:
            try:
                self._write(notifications)
            except OSError as error:
                if not self._failing:
                    log.error("the archive cannot be written, work waits until it can", reason=error.strerror)
                self._failing = True
                if not wait():
                    return False
                time.sleep(WAIT_SECONDS)
                continue
            if self._failing:
                log.info("the archive is written again")
            self._failing = False
            break
        return True

    def _write(self, notifications: list[tuple[int, bytes]]) -> None:
        by_hour: dict[int, list[tuple[int, bytes]]] = {}
        for received_ms, body in notifications:
            by_hour.setdefault(received_ms // HOUR_MS, []).append((received_ms, body))
        written: list[tuple[Path, int]] = []
        try:
            for hour, some in by_hour.items():
                name = f"{_hour(hour * HOUR_MS / 1000)}-{self._worker}-{self._number}.zst"
                self._append(self._folder / name, self._block(some), written)
        except OSError:
            self._number += 1  # what the files so far hold is not known any more
            for path, size in written:
                with suppress(OSError):
                    os.truncate(path, size)
                    if size == 0:
                        path.unlink()
            raise

    def _block(self, notifications: list[tuple[int, bytes]]) -> bytes:
        raw = b"".join(part for ms, body in notifications for part in (_RECORD.pack(ms, len(body)), body))
        frame = self._compressor.compress(raw)
        times = [received_ms for received_ms, _ in notifications]
        holds = _HOLDS.pack(len(notifications), len(raw), min(times), max(times), len(frame))
        return _MAGIC + holds + _CRC.pack(value(holds)) + frame

    def _append(self, path: Path, block: bytes, written: list[tuple[Path, int]]) -> None:
        """Return when the block is on the disk. Adds to `written` the size to cut the file to if that fails."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = os.fstat(fd).st_size
            written.append((path, size))
            write_all(fd, block, size)
            sync(fd)
        finally:
            os.close(fd)
        if size == 0:
            sync_folder(path.parent)
            sync_folder(self._folder)


def prune(folder: Path, age: float) -> None:
    """Remove the files of hours that ended more than `age` seconds ago, by their names alone."""
    oldest = _hour(max(0.0, time.time() - age))
    removed = 0
    try:
        for day in sorted(path for path in folder.iterdir() if _DAY.fullmatch(path.name)):
            for path in day.iterdir() if day.name <= oldest[:10] else ():
                if _NAME.fullmatch(path.name) and f"{day.name}/{path.name[:2]}" < oldest:
                    path.unlink(missing_ok=True)  # another worker may be at it, too
                    removed += 1
            if day.name < oldest[:10]:
                with suppress(OSError):  # somebody keeps something else there
                    day.rmdir()
    except OSError as error:
        log.warning("old files of the archive cannot be removed", reason=error.strerror)
    if removed:
        log.info("archive files older than WA_ARCHIVE_AGE removed", files=removed)


def files(places: Iterable[Path], tell: Tell) -> list[Path]:
    """These files, and those in these folders, however deep."""

    def failed(error: OSError) -> None:
        tell(f"{error.filename}: {error.strerror}")

    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = (Path(folder, name) for folder, _, names in os.walk(place, onerror=failed) for name in names)
            found |= dict.fromkeys(sorted(path for path in inside if path.suffix == ".zst"))
        elif place.exists():
            found[place] = None
        else:
            tell(f"{place}: there is no such file or folder")
    return list(found)


def blocks(path: Path, tell: Tell) -> Iterator[Block]:
    """The blocks of a file as it is now. Where something else begins, the rest is left out."""
    try:
        with path.open("rb", buffering=0) as file:
            at, size = 0, os.fstat(file.fileno()).st_size
            while at < size:
                block = _block(path, os.pread(file.fileno(), HEAD, at), at + HEAD)
                if block is not None and block.offset + block.length <= size:
                    yield block
                    at = block.offset + block.length
                    continue
                time.sleep(_WRITE_SECONDS)
                before, size = size, os.fstat(file.fileno()).st_size
                if size == before:
                    rest = f"left out from byte {at} on: a write that a crash cut off, or damage"
                    tell(f"{path}: {rest if at or block else 'it is no file of the archive'}")
                    return
    except OSError as error:
        tell(f"{path}: {error.strerror}")


def records(block: Block, tell: Tell) -> Iterator[tuple[int, bytes]]:
    """What a block holds, each (arrival in ms, body as kept), in the order in which it left its queue."""
    try:
        with block.path.open("rb", buffering=0) as file:
            frame = os.pread(file.fileno(), block.length, block.offset)
        raw = ZstdDecompressor().decompress(frame, max_output_size=block.bytes)
    except OSError as error:
        tell(f"{block.path}: {error.strerror}")
        return
    except ZstdError:
        lost = counted(block.notifications, "notification is", "notifications are")
        tell(f"{block.path}: damaged at byte {block.offset}, {lost} left out")
        return
    at = 0
    while at < len(raw):
        received_ms, length = _RECORD.unpack_from(raw, at)
        at += _RECORD.size + length
        yield received_ms, raw[at - length : at]


def _block(path: Path, head: bytes, offset: int) -> Block | None:
    """The block whose head these bytes are, or None."""
    holds, crc = head[len(_MAGIC) : -_CRC.size], head[-_CRC.size :]
    if len(head) < HEAD or not head.startswith(_MAGIC) or _CRC.pack(value(holds)) != crc:
        return None
    count, size, first_ms, last_ms, length = _HOLDS.unpack(holds)
    return Block(first_ms, path, offset, length, count, size, last_ms)


def _hour(seconds: float) -> str:
    return time.strftime("%Y-%m-%d/%H", time.gmtime(seconds))
