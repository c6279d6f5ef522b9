"""A PostgreSQL of one's own, from the machine's package (Debian: postgresql). Root may not run it; then another user
does.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USERS = "postgres", "nobody"
_SECONDS = 30.0


class NoServer(Exception):
    """There is no PostgreSQL to start. The message says what is missing."""


class PostgreSQL:
    """A server with a folder of its own, on a socket in it. Its settings are the package's: what it commits is safe."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self._folder, self._programs, self._user = folder, programs, user
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql:///postgres?host={folder}&user=postgres"
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")

    def start(self) -> None:
        """Return when it answers. After `kill`, what is left of the one before ends first."""
        deadline = time.monotonic() + _SECONDS
        folder = str(self._folder)
        command = [str(self._programs / "postgres"), "-D", f"{folder}/data", "-k", folder, "-h", ""]
        while True:
            if self._process is None or self._process.poll() is not None:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(  # noqa: S603
                        command, user=self._user, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
                    )
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise NoServer(f"PostgreSQL does not start: {self._log.read_text()[-500:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash of the machine would, but for its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_SECONDS)

    def script(self, path: Path) -> None:
        """Run the statements in a file."""
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-f", "-", said=path.read_bytes())

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-q", "-h", str(self._folder), "-U", "postgres"]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603

    def _run(self, program: str, *arguments: str, said: bytes | None = None) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(  # noqa: S603
            command, user=self._user, cwd=self._folder, input=said, capture_output=True, check=False
        )
        if done.returncode:
            raise NoServer(f"{program} fails: {done.stderr.decode().strip()[-500:]}")


@contextmanager
def server() -> Iterator[PostgreSQL]:
    """One that has started. Raises NoServer."""
    programs = _programs()
    user = next((name for name in _USERS if _exists(name)), None) if os.geteuid() == 0 else None
    if os.geteuid() == 0 and user is None:
        raise NoServer(f"PostgreSQL refuses root, and there is no user {' or '.join(_USERS)}")
    folder = Path(tempfile.mkdtemp(prefix="wa-postgres-"))
    if user:
        shutil.chown(folder, user)
    made = None
    try:
        made = PostgreSQL(folder, programs, user)
        made.start()
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of initdb and the others; the newest version's if there are several."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    if found:
        return found[-1]
    if on_path:
        return Path(on_path).parent
    raise NoServer("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
