"""The folder in which `wa-ingest up` keeps its server's data: one `up` each, and nobody else's eyes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ingest.errors import SettingsError
from ingest.store import local


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder: one `up` each. The kernel gives the lock back when its holder ends, also when it is killed.

    It is removed again when it is new and the block raises. Raises SettingsError when it is in use or cannot be used.
    """
    if any(character.isspace() for character in str(folder.resolve())):
        raise SettingsError(f"{folder.resolve()}: Valkey takes no path with spaces; start in another folder")
    needed = (folder, local.socket_path(folder).parent)
    new = [own for own in dict.fromkeys(needed) if not own.exists()]
    try:
        for own in needed:
            make_own(own)
        lock = (folder / local.LOCK).open("a+")
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be used for data: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SettingsError(
                f"{folder} is in use by `wa-ingest up` with pid {lock.read().strip()}; "
                "stop that one, or start in another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), True)  # the program that `up` becomes goes on holding it
        try:
            yield
        except BaseException:  # also `sys.exit`
            _remove(new)
            raise


def _remove(folders: Iterable[Path]) -> None:
    """Remove these, unless they hold more than the lock."""
    for folder in folders:
        with suppress(OSError):
            (folder / local.LOCK).unlink(missing_ok=True)
            folder.rmdir()


def make_own(folder: Path) -> None:
    """Make a folder that nobody else can read or write: what is in there is personal. Raises SettingsError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid == os.getuid():
        folder.chmod(0o700)
    if not local.is_own(folder):
        raise SettingsError(f"{folder} is another user's: remove it, or start in another folder")
