"""Redis restarts, comes back empty, is silent, drops connections, fails over: nobody restarts a process by hand."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ingest.settings import load
from ingest.settings import redis_url as url_of
from ingest.store import connection
from tests.conftest import LONG, wait_for
from tests.faults.servers import SERVICE, Servers
from tests.ingest.conftest import port_below_ephemeral, settled_environment

ROOT = Path(__file__).parents[2]

RECORDER = """
import os
from workers import Handlers, RetryIn

handlers = Handlers()
out = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND)

@handlers.status()
@handlers.message()
def record(event):
    if event.id.endswith("7") and event.attempt == 1:
        raise RetryIn(1)
    os.write(out, f"{event.id}\\n".encode())
"""


class System:
    """`wa-ingest serve` and `wa-ingest work` on a Redis, and a sender that posts all the time until `stop`."""

    def __init__(self, folder: Path, url: str, **settings: object) -> None:
        self.folder = folder
        self.port, self.admin_port = port_below_ephemeral(), port_below_ephemeral()
        self.acknowledged: list[tuple[float, str]] = []
        self.refused: list[tuple[float, int]] = []
        self.quiet = threading.Lock()
        """Whoever holds it stops the posting between two notifications."""
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
        wait_for(lambda: "receiver started" in self.log("serve"), what="the receiver's start")
        self._sender.start()
        self.goes_on()

    def _send(self) -> None:
        number = 0
        while not self._stop.is_set():
            http = HTTPConnection("127.0.0.1", self.port, timeout=30)
            with closing(http), suppress(OSError, HTTPException):
                while not self._stop.is_set():
                    number += 1
                    id = f"id{number}"
                    event = {"id": id, "from": str(number % 50), "type": "text"}
                    with self.quiet:
                        http.request("POST", "/webhook", json.dumps({"messages": [event]}))
                        answer = http.getresponse()
                        answer.read()
                    if answer.status == 200:
                        self.acknowledged.append((time.monotonic(), id))
                    else:
                        self.refused.append((time.monotonic(), answer.status))
                    self._stop.wait(0.01)

    def goes_on(self, seconds: float = 60.0) -> None:
        """Wait until what is posted from now on is answered 200, and is handled."""
        before = len(self.acknowledged)
        wait_for(lambda: len(self.acknowledged) >= before + 20, seconds, "200 for what is posted")
        last = next(id for _, id in reversed(self.acknowledged) if not id.endswith("7"))
        wait_for(lambda: last in self.seen(), seconds, "the handling of what is posted")

    def nothing_lost(self, seconds: float = 60.0) -> None:
        """Wait until everything that was answered 200 so far has been handled."""
        expected = {id for _, id in self.acknowledged}
        wait_for(lambda: expected <= set(self.seen()), seconds, "the handling of everything acknowledged")

    def ready_reason(self) -> str | None:
        """What the receiver says is wrong."""
        with closing(HTTPConnection("127.0.0.1", self.admin_port, timeout=30)) as http:
            http.request("GET", "/readyz")
            reason: str | None = json.loads(http.getresponse().read())["reason"]
            return reason

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


@contextmanager
def _servers() -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="wa-failover-") as folder:
        made = Servers(Path(folder))
        try:
            yield made
        finally:
            made.close()


@contextmanager
def _system(folder: Path, url: str, **settings: object) -> Iterator[System]:
    made = System(folder, url, **settings)
    try:
        made.load()
        yield made
        assert all(process.poll() is None for process in made.processes.values())  # nobody started one by hand
    finally:
        made.close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    with _servers() as made:
        yield made


class Single(NamedTuple):
    """One Valkey, and what runs on it under load."""

    servers: Servers
    port: int
    system: System


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    """Receiver, worker and load on one Valkey. One for all tests that leave it as they found it."""
    port = port_below_ephemeral()
    with _servers() as servers:
        servers.server(port)
        wait_for(lambda: servers.answers(port))
        with _system(tmp_path_factory.mktemp("single"), f"redis://127.0.0.1:{port}/0") as system:
            yield Single(servers, port, system)


def _refused(system: System) -> None:
    """Wait until somebody is refused from now on."""
    before = len(system.refused)
    wait_for(lambda: len(system.refused) > before, what="503 while Redis is away")
    assert {status for _, status in system.refused} == {503}


def test_killed_connections(single: Single) -> None:
    """Connections that the server ended, idle or in use, cost no 503, no word in a log and no event."""
    servers, port, system = single
    refused, logs = len(system.refused), {command: len(system.log(command)) for command in system.processes}
    for idle in (True, False) * 4:
        with system.quiet if idle else nullcontext():
            assert servers.client(port).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
        system.goes_on()
    system.nothing_lost()
    assert len(system.refused) == refused
    said = [line for command, length in logs.items() for line in system.log(command)[length:].splitlines()]
    # Handlers ask for retries, which is logged, or counted when there is much of it.
    assert [line for line in said if '"error": "RetryIn"' not in line and '"of": "events failed"' not in line] == []


def test_restart(single: Single) -> None:
    """Redis is killed and started again: posting, handling and retries go on, and nothing acknowledged is lost."""
    servers, port, system = single
    servers.kill(port)
    _refused(system)
    servers.server(port)
    system.goes_on()
    system.nothing_lost()


@pytest.mark.timeout(1200 if LONG else 180)
def test_silence(single: Single) -> None:
    """Redis keeps its connections, but is silent for longer than a worker waits (LONG_TESTS=1: 15 min): 503 meanwhile,
    nothing lost."""
    servers, port, system = single
    servers.signal(port, signal.SIGSTOP)
    until = time.monotonic() + (900 if LONG else connection.WORKER_SECONDS + 2)
    try:
        _refused(system)
        wait_for(lambda: time.monotonic() > until, 1000, "the end of the silence")
    finally:
        servers.signal(port, signal.SIGCONT)
    system.goes_on()
    system.nothing_lost()


def test_restart_empty(single: Single) -> None:
    """Redis comes back without its data, scripts and RQ's own keys: what is posted from then on is handled."""
    servers, port, system = single
    system.nothing_lost()
    servers.kill(port)
    _refused(system)
    servers.wipe(port)
    servers.server(port)
    system.goes_on()
    # What it held when it was killed is gone with its data; the other tests are not to look for it.
    system.acknowledged.clear()


@pytest.fixture
def failover(servers: Servers) -> tuple[int, int, str]:
    """A primary, its replica, and the URL of three sentinels that watch them."""
    primary, replica, *sentinels = (port_below_ephemeral() for _ in range(5))
    servers.server(primary)
    servers.server(replica, "--replicaof", f"127.0.0.1 {primary}")
    wait_for(lambda: servers.answers(primary) and servers.answers(replica))
    wait_for(lambda: _replicas(servers, primary) == 1, what="the replica")
    for port in sentinels:
        servers.sentinel(port, primary)
    for port in sentinels:
        wait_for(lambda: servers.answers(port), what="a sentinel")  # noqa: B023
        # By default a sentinel takes 10 s to make a replica of an old primary, and on a busy machine rests for 30 s.
        quick = ("INFO-PERIOD", 1000, "PUBLISH-PERIOD", 500, "TILT-PERIOD", 1000)
        servers.client(port).execute_command("SENTINEL", "DEBUG", *quick)
    for port in sentinels:
        wait_for(lambda: _sees(servers, port) == (2, 1), 60, "the sentinels")  # noqa: B023
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


def _is_primary(servers: Servers, port: int) -> bool:
    with suppress(RedisError):
        info: Any = servers.client(port).info("replication")
        return bool(info["role"] == "master")
    return False


@pytest.mark.timeout(240)
def test_failover(servers: Servers, failover: tuple[int, int, str], tmp_path: Path) -> None:
    """The primary is killed: with replicas:1 there is 503 until it is back as a replica; no 200 is lost."""
    primary, replica, url = failover
    with _system(tmp_path, url, WA_DURABILITY="replicas:1") as system:
        assert system.refused == []
        servers.kill(primary)
        killed = time.monotonic()
        wait_for(lambda: _is_primary(servers, replica), 60, "the failover")
        elected, acknowledged = time.monotonic(), len(system.acknowledged)
        wait_for(lambda: system.ready_reason() == "WAIT reached 0 of 1", 60, "the receiver at the new primary")
        _refused(system)
        assert len(system.acknowledged) == acknowledged
        servers.server(primary)
        returned = time.monotonic()
        wait_for(lambda: _replicas(servers, replica) == 1, 110, "the old primary as a replica")
        system.goes_on()
        system.nothing_lost()
        again = system.acknowledged[acknowledged][0]
    print(
        f"no 200 for {again - killed:.1f} s: failover {elected - killed:.1f} s, "
        f"200 again {again - returned:.1f} s after the old primary was started"
    )


def test_demoted_primary(servers: Servers) -> None:
    """READONLY and UNBLOCKED from a demoted primary are one ConnectionError; then the sentinels are asked again."""
    old, new, sentinel = (port_below_ephemeral() for _ in range(3))
    servers.server(old)
    servers.server(new)
    servers.sentinel(sentinel, old, quorum=1)
    wait_for(lambda: all(map(servers.answers, (old, new, sentinel))))
    settings = load(redis_url=f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}/1")
    script = "return redis.call('SET', KEYS[1], 'written')"
    sha = servers.client(old).script_load(script)
    servers.client(new).script_load(script)

    def demote() -> None:
        """Without the sentinels, which would end the old primary's connections."""
        wait_for(lambda: servers.client(old).info("clients")["blocked_clients"])  # type: ignore[index]
        servers.client(sentinel).execute_command("SENTINEL", "REMOVE", SERVICE)
        servers.client(sentinel).execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new, 1)
        servers.client(old).replicaof("127.0.0.1", new)  # type: ignore[arg-type]

    async def go(worker: Redis) -> None:
        plain, piped = (connection.for_receiver(url_of(settings)) for _ in range(2))
        for receiver in (plain, piped):
            await receiver.set("before", 1)
        blocked = asyncio.create_task(asyncio.to_thread(worker.blpop, ["list"], 4))
        await asyncio.to_thread(demote)
        with pytest.raises(RedisConnectionError):
            await plain.evalsha(sha, 1, "a")  # type: ignore[misc]
        with pytest.raises(RedisConnectionError):
            await piped.pipeline(transaction=False).evalsha(sha, 1, "b").execute()
        with pytest.raises(RedisConnectionError):
            await blocked
        for receiver in (plain, piped):
            assert await receiver.evalsha(sha, 1, "c") == b"OK"  # type: ignore[misc]
            await receiver.aclose()
            await receiver.connection_pool.sentinel_manager.aclose()

    with (
        closing(connection.for_worker(url_of(settings))) as worker,
        closing(connection.for_worker(url_of(settings))) as other,
    ):
        other.set("before", 1)
        asyncio.run(go(worker))
        with pytest.raises(RedisConnectionError):
            other.evalsha(sha, 1, "d")
        assert other.evalsha(sha, 1, "e") == b"OK"
        assert worker.pipeline().set("f", 1).execute() == [True]
        with Redis(port=new, db=1) as there:
            assert sorted(there.scan_iter()) == [b"c", b"e", b"f"]


@pytest.mark.skipif(not LONG, reason="LONG_TESTS=1 runs it")
@pytest.mark.timeout(300)
def test_switchover(servers: Servers, failover: tuple[int, int, str], tmp_path: Path) -> None:
    """An operator moves the primary while all is well: the old one takes writes for seconds, but no 200 is lost."""
    _, replica, url = failover
    sentinel = int(url.split("/")[2].rpartition(":")[2])
    with _system(tmp_path, url, WA_DURABILITY="replicas:1") as system:
        servers.client(sentinel).execute_command("SENTINEL", "FAILOVER", SERVICE)
        wait_for(lambda: _is_primary(servers, replica), 60, "the failover")
        wait_for(lambda: _replicas(servers, replica) == 1, 110, "the old primary as a replica")
        system.goes_on()
        system.nothing_lost()
        print(f"no 200 for {system.longest_gap():.1f} s, {len(system.refused)} times 503")


@pytest.mark.skipif(not LONG, reason="LONG_TESTS=1 runs it")
def test_failover_without_replicas(servers: Servers, failover: tuple[int, int, str], tmp_path: Path) -> None:
    """The primary is killed, and nothing else is done: receiver and worker find the new one by themselves."""
    primary, _, url = failover
    with _system(tmp_path, url) as system:
        servers.kill(primary)
        _refused(system)
        system.goes_on()
        print(f"no 200 for {system.longest_gap():.1f} s")
