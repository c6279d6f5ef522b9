"""The folder in which `wa-ingest up` keeps its server's data: one `up` each, and nobody else's eyes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.errors import SettingsError
from ingest.store import local


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder: one `up` each. The kernel gives the lock back when its holder ends, also when it is killed.

    Raises SettingsError when the folder is in use or cannot be used.
    """
    try:
        for own in (folder, local.socket_path(folder).parent):
            make_own(own)
        lock = (folder / local.LOCK).open("a+")
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be used for data: {error.strerror}") from None
    if any(character.isspace() for character in str(folder.resolve())):
        lock.close()
        raise SettingsError(f"{folder.resolve()}: Valkey takes no path with spaces; start in another folder")
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
        yield


def make_own(folder: Path) -> None:
    """Make a folder that nobody else can read or write: what is in there is personal. Raises SettingsError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid == os.getuid():
        folder.chmod(0o700)
    if not local.is_own(folder):
        raise SettingsError(f"{folder} is another user's: remove it, or start in another folder")
