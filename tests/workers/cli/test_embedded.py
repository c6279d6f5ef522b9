"""The server that `wa-ingest up` brings along: its folder, its lock, its socket, and what survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ingest import child
from ingest.settings import SettingsError
from ingest.store.local import answers, socket_path
from workers.cli.data_folder import locked

ROOT = Path(__file__).parents[3]
WaitFor = Callable[..., None]


class Embedded:
    """A running `python -m workers.cli.embedded`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = socket_path(folder)
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli.embedded", str(folder), str(self.path)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )
        self._clients: list[Redis] = []

    def answers(self) -> bool:
        return answers(self.path)

    def client(self) -> Redis:
        self._clients.append(Redis(unix_socket_path=str(self.path), retry=Retry(NoBackoff(), 0)))
        return self._clients[-1]

    def server_pid(self) -> int:
        return int(self.client().info("server")["process_id"])

    def close(self) -> None:
        with suppress(RedisError):
            self.client().shutdown(nosave=True)
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder for data, its path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="wa-data-") as name:
        yield Path(name, "data")


@pytest.fixture
def start_embedded(folder: Path, wait_for: WaitFor) -> Iterator[Callable[..., Embedded]]:
    """Start the embedded server of a folder and wait until it answers; `folder` outlives it."""
    started: list[Embedded] = []

    def start(folder: Path, ready: bool = True) -> Embedded:
        folder.mkdir(parents=True, exist_ok=True)
        started.append(Embedded(folder))
        if ready:
            wait_for(started[-1].answers, what="the embedded server")
        return started[-1]

    yield start
    for embedded in started:
        embedded.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_settings_of_the_server(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """It syncs each write, never evicts, listens on no port, and lets nobody else use its socket."""
    embedded = start_embedded(folder)
    config = embedded.client().config_get("*")
    assert {name: config[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save", "port")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert embedded.path.stat().st_mode & 0o777 == 0o700
    assert Path(config["dir"]) == folder.resolve()


def test_stop_and_start(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """SIGTERM stops the server in order, and what it held is there at the next start."""
    first = start_embedded(folder)
    first.client().set("key", "value")
    server = first.server_pid()
    first.process.terminate()
    assert first.process.wait(30) == 0
    assert gone(server)
    assert start_embedded(folder).client().get("key") == b"value"


def test_parent_that_is_gone(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """When its parent's end of standard input closes, the server stops in order."""
    embedded = start_embedded(folder)
    server = embedded.server_pid()
    assert embedded.process.stdin is not None
    embedded.process.stdin.close()
    assert embedded.process.wait(30) == 0
    assert gone(server)


def test_killed_server(start_embedded: Callable[..., Embedded], folder: Path, wait_for: WaitFor) -> None:
    """When the server is killed, its small process ends as it did, and the next one has all that was answered."""
    first = start_embedded(folder)
    client = first.client()
    for n in range(100):
        client.rpush("list", n)
    # A second PING, after the one of `answers`, says that the small process has done starting and only watches.
    wait_for(lambda: client.info("commandstats")["cmdstat_ping"]["calls"] >= 2)
    os.kill(first.server_pid(), signal.SIGKILL)
    assert first.process.wait(30) == -signal.SIGKILL
    assert start_embedded(folder).client().lrange("list", 0, -1) == [b"%d" % n for n in range(100)]


KILLED = """
import sys
from workers.cli import embedded

class Server(embedded._Server):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._binary_path = sys.argv[3]

embedded._Server = Server
embedded.main()
"""


@pytest.mark.parametrize(("ends", "status"), [("kill -9 $$", -signal.SIGKILL), ("exit 1", child.GIVE_UP)])
def test_a_server_that_ends_while_it_starts(folder: Path, tmp_path: Path, ends: str, status: int) -> None:
    """One that was killed is started again, as later; one that refuses would fail the same way the next time."""
    program = tmp_path / "valkey-server"
    program.write_text(f"#!/bin/sh\n{ends}\n")
    program.chmod(0o700)
    command = [sys.executable, "-c", KILLED, str(folder), str(socket_path(folder)), str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.wait(60) == status


def test_slow_server(start_embedded: Callable[..., Embedded], folder: Path, wait_for: WaitFor) -> None:
    """A server that answers nothing for a while, as on a disk that stalls, is waited for and not killed."""
    embedded = start_embedded(folder)
    server = embedded.server_pid()
    wait_for(lambda: embedded.client().info("commandstats")["cmdstat_ping"]["calls"] >= 2)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            embedded.process.wait(3)
    finally:
        os.kill(server, signal.SIGCONT)
    assert embedded.server_pid() == server


def test_killed_small_process(start_embedded: Callable[..., Embedded], folder: Path, wait_for: WaitFor) -> None:
    """When the small process is killed, the next one ends the server that was left and has all of its data."""
    first = start_embedded(folder)
    first.client().set("key", "value")
    server = first.server_pid()
    first.process.kill()
    first.process.wait()
    second = start_embedded(folder, ready=False)
    wait_for(lambda: gone(server), what="the end of the server that was left")
    wait_for(second.answers)
    assert second.process.poll() is None
    assert second.server_pid() != server
    assert second.client().get("key") == b"value"
    second.process.terminate()
    assert second.process.wait(30) == 0


def test_both_killed(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """After SIGKILL of both, nothing that the server had answered is missing, and the stale socket is no obstacle."""
    first = start_embedded(folder)
    client = first.client()
    for n in range(100):
        client.rpush("list", n)
    server = first.server_pid()
    first.process.kill()
    os.kill(server, signal.SIGKILL)
    first.process.wait()
    assert start_embedded(folder).client().lrange("list", 0, -1) == [b"%d" % n for n in range(100)]


@pytest.mark.parametrize("moment", range(0, 40, 10))
def test_stop_at_any_moment(
    start_embedded: Callable[..., Embedded], folder: Path, moment: int, wait_for: WaitFor
) -> None:
    """SIGTERM in the course of the start is a stop like any other, not a failed start, and leaves no server behind."""
    embedded = start_embedded(folder, ready=False)
    task = Path(f"/proc/{embedded.process.pid}/task/{embedded.process.pid}/children")
    wait_for(task.read_text)  # it has forked
    (server,) = map(int, task.read_text().split())
    time.sleep(moment / 1000)  # no synchronisation: each moment has to do
    os.kill(server, signal.SIGSTOP)  # much data would hold it up for longer than a test may take
    embedded.process.terminate()
    os.kill(server, signal.SIGCONT)
    assert embedded.process.wait(30) == 0
    assert gone(server)
    assert "does not start" not in embedded.log.read_text()


def test_stop_before_there_is_a_server(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """SIGTERM as soon as it is listened to is obeyed when there is something to stop."""
    embedded = start_embedded(folder, ready=False)
    status = Path(f"/proc/{embedded.process.pid}/status")
    while True:  # no pause: from here to the fork are some milliseconds
        (caught,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            break
    embedded.process.terminate()
    assert embedded.process.wait(30) == 0
    assert not embedded.answers()
    assert "does not start" not in embedded.log.read_text()


def test_server_that_cannot_start(start_embedded: Callable[..., Embedded], folder: Path) -> None:
    """Data that the server cannot read are one line that names its log, and no use in trying again."""
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    embedded = start_embedded(folder, ready=False)
    assert embedded.process.wait(60) == child.GIVE_UP
    lines = embedded.log.read_text().splitlines()
    assert lines == [f"wa-ingest: the embedded server does not start; {folder}/valkey.log says why"]
    assert "manifest" in (folder / "valkey.log").read_text()


def test_not_ready_before_it_answers(folder: Path) -> None:
    """A folder without a server is not ready; asking creates nothing."""
    assert not answers(socket_path(folder))
    assert not folder.exists()


def test_lock(folder: Path) -> None:
    """A folder has one token; a second is refused with its pid, and may have it afterwards."""
    with locked(folder):
        with pytest.raises(SettingsError) as caught, locked(folder):
            pass
        assert str(caught.value).startswith(f"{folder} is in use by `wa-ingest up` with pid {os.getpid()};")
        assert "\n" not in str(caught.value)
    with locked(folder):
        pass


def test_lock_of_what_fails(folder: Path) -> None:
    """A new folder is removed when what wanted it fails, with the one of its socket; what holds anything else stays."""

    def fail(path: Path, *files: str) -> None:
        with locked(path):
            assert socket_path(path).parent.is_dir()
            for name in files:
                (path / name).touch()
            sys.exit(1)

    for path in (folder, folder / ("x" * 100)):
        with pytest.raises(SystemExit):
            fail(path)
        assert not path.exists()
        assert not socket_path(path).parent.exists()
    with pytest.raises(SystemExit):
        fail(folder, "valkey.log")
    assert (folder / "valkey.log").exists()


def test_lock_of_a_killed_holder(folder: Path) -> None:
    """The lock names its token in another process, and is no obstacle once that was killed."""
    code = (
        "import signal, sys; from pathlib import Path; from workers.cli.data_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n  print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as token:
        try:
            assert token.stdout is not None
            assert token.stdout.readline() == b"held\n"
            with pytest.raises(SettingsError, match=f"with pid {token.pid};"), locked(folder):
                pass
        finally:
            token.kill()
    with locked(folder):
        assert (folder / "up.lock").read_text() == str(os.getpid())


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file where the folder should be, or where the lock should be a file a folder: one line each."""
    (tmp_path / "file").write_text("")
    (tmp_path / "data" / "up.lock").mkdir(parents=True)
    for path, why in {"file": "File exists", "file/data": "Not a directory", "data": "Is a directory"}.items():
        with pytest.raises(SettingsError) as caught, locked(tmp_path / path):
            pass
        assert str(caught.value) == f"{tmp_path / path}: cannot be used for data: {why}"


def test_folder_with_a_space(tmp_path: Path) -> None:
    """A path that Valkey cannot take is refused with the remedy, also when only a parent has the space."""
    for path in (tmp_path / "my data", tmp_path / "my data" / "deep"):
        with pytest.raises(SettingsError, match=r": Valkey takes no path with spaces; start in another"), locked(path):
            pass
        assert not path.exists()


def test_socket_path(tmp_path: Path) -> None:
    """The socket is in the folder, or when that path is too long, in a folder of its own below the temporary one."""
    assert socket_path(Path("/data")) == Path("/data/valkey.sock")
    paths = [socket_path(tmp_path / ("x" * 100) / name) for name in "ab"]
    assert paths[0] != paths[1]
    assert paths[0] == socket_path(tmp_path / "y" / ".." / ("x" * 100) / "a")
    for path in paths:
        assert path.parent.parent == Path(tempfile.gettempdir())
        assert len(os.fsencode(path)) <= 107


def test_socket_path_counts_bytes() -> None:
    """The length of a path is what the kernel counts: bytes, not characters."""
    assert socket_path(Path("/" + "x" * 60)).parent == Path("/" + "x" * 60)
    assert socket_path(Path("/" + "ö" * 60)).parent.parent == Path(tempfile.gettempdir())


def test_long_path(start_embedded: Callable[..., Embedded], tmp_path: Path) -> None:
    """A server in a deep folder works."""
    embedded = start_embedded(tmp_path / ("x" * 100))
    assert embedded.client().ping()
    assert not embedded.path.is_relative_to(tmp_path)
    embedded.process.terminate()
    assert embedded.process.wait(30) == 0
    embedded.path.unlink(missing_ok=True)
    embedded.path.parent.rmdir()


def test_nobody_else_reads_the_data(start_embedded: Callable[..., Embedded], tmp_path: Path) -> None:
    """Folder, files and socket are the user's alone, also in a folder that an older version has made."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    with locked(folder):
        embedded = start_embedded(folder)
        embedded.client().set("k", "v")
        found = {path: path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))}
        assert {path.name for path in found} >= {"data", "valkey.sock", "appendonlydir"}
        assert {path for path, mode in found.items() if mode and path.name != "up.lock"} == set()


def test_a_folder_that_others_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the socket below the temporary one is refused if somebody else has made it, in one line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deep = tmp_path / ("x" * 100)
    path = socket_path(deep)
    path.parent.symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="another user's"), locked(deep):
        pass
