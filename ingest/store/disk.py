"""Files that survive a crash of the machine, for the spool and the archive."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_ROOM = 1 << 20  # a disk with less free than this counts as full

sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def problem(folder: Path) -> str | None:
    """Why nothing can be written into the folder, or None."""
    try:
        try_to_write(folder)
    except OSError as error:
        return error.strerror
    return None


def try_to_write(folder: Path) -> None:
    """Write a megabyte, sync it and remove it. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_ROOM))
        file.flush()
        os.fsync(file.fileno())


def write_all(fd: int, data: bytes, offset: int) -> int:
    """Write all of it; returns the offset after it. One call is not enough on a disk that fills up."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
    return offset


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file, readable only by its owner, that gets its name once all of it is on the disk. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(0, "it is not a regular file")
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
