"""Signs of life of child processes, for their parent and for probes (`wa-ingest work --healthy`).

A sign is an empty file whose time is that of the child's last sign, by the monotonic clock, which all processes of a
machine share and nobody sets. The parent holds a lock in the folder, so that what a killed one left behind counts for
nothing. This module imports little: a probe runs it every few seconds.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PREFIX = "wa-ingest-"
"""What the names of the folders that parents make for their children begin with."""

SILENT_SECONDS = 30.0
"""A child without a sign for so long makes no progress."""

_EVERY = 1.0
_SUFFIX = ".sign"
_VARIABLE = "INGEST_SIGN"


def lock(folder: str) -> int:
    """To be called by the parent, which is alive while the returned descriptor is open."""
    descriptor = os.open(Path(folder, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def path(folder: str, name: str) -> Path:
    """Where the child of this name gives its sign."""
    return Path(folder, f"{name}{_SUFFIX}")


def expected(sign: Path) -> dict[str, str]:
    """The environment in which a child learns where its sign is expected."""
    return {_VARIABLE: str(sign)}


def give(sign: Path) -> None:
    """Give a sign of life, for a child that is only just starting, too."""
    now = time.monotonic()
    sign.touch(mode=0o600)
    os.utime(sign, (now, now))


def seen(sign: Path) -> float:
    """When the last sign was given, by the monotonic clock; 0.0: never."""
    try:
        return sign.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def give_steadily() -> None:
    """In a child: from now on give signs, as long as Python code runs in this process. Nothing if none is expected."""
    if where := os.environ.pop(_VARIABLE, ""):
        threading.Thread(target=_give, args=(Path(where),), name="signs", daemon=True).start()


def _give(sign: Path) -> None:
    while True:
        with suppress(OSError):  # a full disk, or the parent has gone with its folder
            give(sign)
        time.sleep(_EVERY)


def without_workers() -> bool:
    """True when wa-ingest runs on this machine, but no worker: a receiver's."""
    return any(_of_parents()) and not _alive()


def _of_parents() -> Iterator[Path]:
    """The folders of parents that are alive."""
    for file in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        try:
            descriptor = os.open(file, os.O_RDWR)
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield file.parent
        finally:
            os.close(descriptor)


def _alive() -> list[Path]:
    """The signs of children whose parent is alive."""
    return [sign for folder in _of_parents() for sign in sorted(folder.glob(f"*{_SUFFIX}"))]


def main() -> None:
    """Exit status 0 while the workers of this machine make progress; else 1, with one line that says why."""
    silent = {sign.name.removesuffix(_SUFFIX): time.monotonic() - seen(sign) for sign in _alive()}
    if not silent:
        sys.exit("Error: no worker runs on this machine; start some: wa-ingest work")
    late = {name: seconds for name, seconds in silent.items() if seconds > SILENT_SECONDS}
    if late:
        told = ", ".join(f"{name} for {seconds:.0f} s" for name, seconds in late.items())
        sys.exit(f"Error: no sign of life from {told}; its parent replaces it, and the log has its stack")


if __name__ == "__main__":
    main()
