"""The server that `wa-ingest up` brings along: where it listens, and whether one runs here."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

DATA = Path("data")
"""Where `up` keeps everything, below the working folder."""

LOCK = "up.lock"
"""A file in there that is locked while an `up` runs."""

_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


def socket_path(folder: Path) -> Path:
    """Where the server listens: in its folder, or below the temporary folder when that path is too long for a socket.

    There it is a folder of our own (`is_own`), because others could take a name in the common one first.
    """
    path = folder.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"wa-ingest-{os.getuid()}-{digest}" / "valkey.sock"


def is_own(folder: Path) -> bool:
    """True when nobody else can write there."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def answers(path: Path) -> bool:
    """True when a server listens there and has read its data."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def running() -> str | None:
    """The URL of the server of an `up` that runs in the working folder; None when there is none."""
    path = socket_path(DATA)
    try:
        is_there = path.exists() and is_own(path.parent)
    except OSError:  # somebody else's folder
        return None
    return f"unix://{path}" if is_there and is_held() else None


def is_held() -> bool:
    """True while an `up` with a server of its own lives in the working folder, also when its server does not run."""
    try:
        with (DATA / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
