"""A Redis Cluster: receiver and worker follow the one slot that holds all keys, wherever it goes."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ingest.settings import load
from ingest.settings import redis_url as url_of
from ingest.store import connection, keys, scripts
from tests.conftest import wait_for
from tests.faults.servers import Servers
from tests.faults.test_failover import System, _refused, _servers, _system
from tests.ingest.conftest import port_below_ephemeral, settled_environment

ROOT = Path(__file__).parents[2]
PREFIX = "{wa}"
SLOT = key_slot(PREFIX.encode())
SLOTS = 16384
_ACL_WORDS = re.compile(r"\([^)]*\)|\S+")  # a selector is one word


class Cluster:
    """Three nodes, a third of the slots each, and a replica of the node that has ours."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.ports = [port_below_ephemeral() for _ in range(3)]
        for port in self.ports:
            self._start(port)
        for port, first in zip(self.ports, range(0, SLOTS, SLOTS // 3), strict=False):
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", first, min(first + SLOTS // 3, SLOTS) - 1)
            self._meet(port)
        self._settled(self.ports)
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def _start(self, port: int) -> None:
        fixed = ("--cluster-enabled", "yes", "--cluster-node-timeout", 1000, "--cluster-port", port_below_ephemeral())
        self.servers.server(port, *fixed, "--cluster-require-full-coverage", "no")
        wait_for(lambda: self.servers.answers(port))

    def _meet(self, port: int) -> None:
        bus = self.servers.client(self.ports[0]).config_get("cluster-port")["cluster-port"]
        self.ask(port, "CLUSTER", "MEET", "127.0.0.1", self.ports[0], bus)

    def _settled(self, ports: list[int]) -> None:
        for port in ports:
            wait_for(lambda: b"cluster_state:ok" in self.ask(port, "CLUSTER", "INFO"), what="the cluster")  # noqa: B023
            wait_for(lambda: len(self._shards(port)) >= 3, what="all nodes at all nodes")  # noqa: B023

    def add_replica(self) -> int:
        port = port_below_ephemeral()
        self._start(port)
        self._meet(port)
        self._settled([port])
        self.ask(port, "CLUSTER", "REPLICATE", self.id(self.owner()))
        wait_for(lambda: self.servers.client(port).info("replication").get("master_link_status") == "up")  # type: ignore[union-attr]
        return port

    def ask(self, port: int, *command: object) -> Any:
        return self.servers.client(port).execute_command(*command)  # type: ignore[no-untyped-call]

    def id(self, port: int) -> str:
        return str(self.ask(port, "CLUSTER", "MYID").decode())

    def _shards(self, port: int) -> list[Any]:
        return [found for found in self.ask(port, "CLUSTER", "SLOTS") if found[2][1]]

    def owner(self) -> int:
        """The port of the primary that has our slot, for a node that answers."""
        port = next(filter(self.servers.answers, self.ports))
        return next(int(node[1]) for first, last, node, *_ in self._shards(port) if first <= SLOT <= last)

    def other(self) -> int:
        """The port of a node that does not have it."""
        return next(port for port in self.ports if port != self.owner())

    def move(self, meanwhile: Callable[[], None]) -> None:
        """Move the slot to another node at one moment (Valkey 9)."""
        to = self.other()
        self.ask(self.owner(), "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", self.id(to))
        wait_for(lambda: self.owner() == to, what="the slot at its new node")

    def move_by_keys(self, meanwhile: Callable[[], None]) -> None:
        """Move the slot to another node key by key, as `redis-cli --cluster reshard` does; in between `meanwhile`."""
        source, to = self.owner(), self.other()
        ids = {port: self.id(port) for port in (source, to)}
        self.ask(to, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", ids[to])
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", SLOT, 3):
            self.ask(source, "MIGRATE", "127.0.0.1", to, "", 0, 5000, "KEYS", *keys)
            meanwhile()
        for port in (to, source, *self.ports):
            self.ask(port, "CLUSTER", "SETSLOT", SLOT, "NODE", ids[to])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with _servers() as servers:
        yield Cluster(servers)


@pytest.fixture(scope="module")
def system(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Receiver, worker and load on a cluster; what its URL names first is not the node that has the slot."""
    with _system(tmp_path_factory.mktemp("cluster"), cluster.url, RQ_KEY_PREFIX=PREFIX) as system:
        yield system


@pytest.mark.parametrize("move", [Cluster.move, Cluster.move_by_keys])
def test_slot_moves(cluster: Cluster, system: System, move: Callable[..., None]) -> None:
    """The slot goes to another node under load, at one moment or key by key: nothing acknowledged is lost."""
    before = cluster.owner()
    move(cluster, lambda: _refused(system))
    assert cluster.owner() != before
    system.goes_on()
    system.nothing_lost()
    print(f"no 200 for {system.longest_gap():.1f} s, {len(system.refused)} times 503")


def _post(system: System, body: str) -> int:
    with closing(HTTPConnection("127.0.0.1", system.port, timeout=30)) as http:
        http.request("POST", "/webhook", body)
        answer = http.getresponse()
        answer.read()
        return answer.status


def _run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=settled_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_tools(cluster: Cluster, system: System) -> None:
    """status, check, dead letters, their return to the queue and `rq info` work on a cluster."""
    settings = {"WA_REDIS_URL": cluster.url, "RQ_KEY_PREFIX": PREFIX}

    def ask(*command: str) -> Any:
        done = _run("workers.cli", *command, "--json", **settings)
        assert done.stderr == ""
        return (
            [json.loads(line) for line in done.stdout.splitlines()] if command[0] == "dead" else json.loads(done.stdout)
        )

    def letters() -> int:
        return int(cluster.ask(cluster.owner(), "XLEN", f"{PREFIX}:wa:dead:other"))

    assert _post(system, "[]") == 200
    wait_for(letters, what="the dead letter")
    # A worker that the move of the slot ended is counted until its heartbeat is too old.
    wait_for(lambda: ask("status")["workers"] == 1, seconds=60, what="the one worker alone")
    assert ask("status")["lanes"]["other"]["dead"] == 1
    found = {one["name"]: one["result"] for one in ask("check")}
    assert found["redis"] == found["append-only file"] == found["eviction"] == "ok"
    assert ask("dead", "retry") == [{"matched": 1, "done": 1}]
    wait_for(letters, what="its return as a dead letter")
    plain = f"redis://127.0.0.1:{cluster.owner()}"
    info = subprocess.run(
        [Path(sys.executable).with_name("rq"), "info", "--url", plain],
        env=settled_environment(RQ_KEY_PREFIX=PREFIX),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "messages.0" in info.stdout
    assert "1 workers" in info.stdout


@pytest.mark.parametrize(("prefix", "module"), [("rq", "workers.cli"), (PREFIX, "workers.engine.worker")])
def test_url_of_a_node(cluster: Cluster, run_module: Callable[..., Any], prefix: str, module: str) -> None:
    """The URL of a node of a cluster is one line that says what to set instead, from a tool and from a worker."""
    env = settled_environment(WA_REDIS_URL=f"redis://127.0.0.1:{cluster.other()}", RQ_KEY_PREFIX=prefix)
    process = run_module(module, "check", env=env | {"COLUMNS": "1000"})
    assert process.wait(60) == 1
    output = process.stdout.read()
    assert "WA_REDIS_URL is a node of a Redis Cluster" in output
    assert "Traceback" not in output


def test_no_cluster(
    own_valkey: Callable[..., Any], low_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL of a cluster for a server that is in none is one line, too."""
    monkeypatch.setattr(keys, "RQ", PREFIX)
    port = low_port()
    own_valkey(port=port)
    with closing(connection.for_tools(url_of(load(redis_url=f"redis+cluster://127.0.0.1:{port}")))) as client:
        with pytest.raises(RedisError) as caught:
            client.ping()
        said = "the server of WA_REDIS_URL is no node of a cluster; give redis://HOST:PORT/DB"
        assert str(connection.diagnose(caught.value)) == said


def test_script_is_refused_whole(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the slot is moved key by key, a script that could not be carried out to its end is not begun."""
    monkeypatch.setattr(keys, "RQ", PREFIX)
    (tmp_path / "two.lua").write_text("#!lua\nredis.call('INCR', KEYS[1])\nredis.call('INCR', KEYS[1] .. 'new')\n")
    source, to = cluster.owner(), cluster.other()
    with closing(connection.for_tools(url_of(load(redis_url=cluster.url)))) as client:
        script = client.register_script(scripts.lua(str(tmp_path / "room.py"), "two.lua"))
        client.set(PREFIX + "old", 1)
        cluster.ask(to, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", cluster.id(source))
        cluster.ask(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", cluster.id(to))
        try:
            with pytest.raises(RedisConnectionError):
                script(keys=[PREFIX + "old"])
            assert client.get(PREFIX + "old") == b"1"
        finally:
            for port in (source, to):
                cluster.ask(port, "CLUSTER", "SETSLOT", SLOT, "STABLE")
        script(keys=[PREFIX + "old"])
        assert client.get(PREFIX + "old") == b"2"


def test_lost_slot(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node answers that has the slot no more is one ConnectionError; then the cluster is asked again."""
    monkeypatch.setattr(keys, "RQ", PREFIX)
    settings = load(redis_url=cluster.url)
    key = PREFIX + "key"

    async def go(worker: Redis) -> None:
        plain, piped = (connection.for_receiver(url_of(settings)) for _ in range(2))
        for receiver in (plain, piped):
            await receiver.set(key, 1)
        blocked = asyncio.create_task(asyncio.to_thread(worker.blpop, [PREFIX + "list"], 20))
        await asyncio.to_thread(wait_for, lambda: cluster.servers.client(cluster.owner()).info()["blocked_clients"])
        await asyncio.to_thread(cluster.move, lambda: None)
        with pytest.raises(RedisConnectionError):
            await blocked
        with pytest.raises(RedisConnectionError):
            await plain.set(key, 2)
        with pytest.raises(RedisConnectionError):
            await piped.pipeline(transaction=False).set(key, 2).execute()
        for receiver in (plain, piped):
            assert await receiver.set(key, 2)
            await receiver.aclose()

    with (
        closing(connection.for_worker(url_of(settings))) as worker,
        closing(connection.for_tools(url_of(settings))) as tool,
    ):
        tool.ping()
        asyncio.run(go(worker))
        with pytest.raises(RedisConnectionError):
            tool.get(key)
        assert tool.get(key) == b"2"
        assert worker.pipeline().set(key, 3).execute() == [True]


def test_users(cluster: Cluster, start_receiver: Callable[..., Any]) -> None:
    """The users of users.acl can do their work in a cluster, once the file names the prefix with the hash tag."""
    for line in (ROOT / "deploy/redis/users.acl").read_text().replace("rq:", f"{PREFIX}:").splitlines()[1:]:
        for port in cluster.ports:
            cluster.ask(port, "ACL", "SETUSER", *_ACL_WORDS.findall(line.removeprefix("user ")))
    receiver, operator = (cluster.url.replace("//", f"//{u}:change-me-{u}@") for u in ("receiver", "operator"))
    started = start_receiver(receiver, RQ_KEY_PREFIX=PREFIX)
    assert started.post(b"[]").status == 200
    assert b'"ready":true' in started.admin("/readyz").body
    done = _run("workers.cli", "status", "--json", WA_REDIS_URL=operator, RQ_KEY_PREFIX=PREFIX)
    assert "other" in json.loads(done.stdout)["lanes"]


def test_failover(cluster: Cluster, system: System) -> None:
    """The node that has the slot is killed, and its replica takes over: handling goes on, nobody restarts a process.

    The last of the module: the node stays away.
    """
    replica = cluster.add_replica()
    old = cluster.owner()
    with system.quiet:
        system.nothing_lost()
        cluster.ask(old, "WAIT", 1, 5000)
    cluster.servers.kill(old)
    _refused(system)
    cluster.ports = [port for port in cluster.ports if port != old]
    wait_for(lambda: cluster.owner() == replica, 60, "the failover")
    system.goes_on()
