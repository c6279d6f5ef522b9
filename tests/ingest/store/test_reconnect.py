"""Connections that can no longer be trusted are closed, and the next one asks again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from ingest.settings import load
from ingest.settings import redis_url as url_of
from ingest.store import connection, urls
from ingest.store.pipelined import PipelinedConnection
from workers.engine.doorbell import Doorbell


class Demoted:
    """A server of which each connection answers DBSIZE with `error`, but for those from number `good` on, with 7."""

    def __init__(self, error: str, good: int = 2) -> None:
        self._error = f"-{error}\r\n".encode()
        self._good = good
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, client.makefile("rb") as lines:
            while head := lines.readline():
                words = [lines.read(int(lines.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                client.sendall(self._answer(words[0].upper(), number))

    def _answer(self, command: bytes, number: int) -> bytes:
        if command == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        if command != b"DBSIZE":
            return b"+OK\r\n"
        return self._error if number < self._good else b":7\r\n"

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def demoted() -> Iterator[Callable[..., Demoted]]:
    made: list[Demoted] = []

    def start(error: str, good: int = 2) -> Demoted:
        made.append(Demoted(error, good))
        return made[-1]

    yield start
    for server in made:
        server.close()


def _by_worker(url: str) -> Any:
    with connection.for_worker(url) as client:
        return client.dbsize()


def _by_receiver(url: str) -> Any:
    async def ask() -> Any:
        async with connection.for_receiver(url) as client:
            return await client.dbsize()

    return asyncio.run(ask())


def _by_receiver_in_a_pipeline(url: str) -> Any:
    async def ask() -> Any:
        async with connection.for_receiver(url) as client, client.pipeline(transaction=False) as pipe:
            return (await pipe.ping().dbsize().execute(raise_on_error=False))[1]

    return asyncio.run(ask())


def _by_flow(url: str) -> Any:
    with connection.for_worker(url) as client:
        pipelined = PipelinedConnection(client)
        try:
            return pipelined.answer(pipelined.send("DBSIZE"))
        finally:
            pipelined.hang_up()


ERRORS = [
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "LOADING Redis is loading the dataset in memory",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "CLUSTERDOWN The cluster is down",
]


@pytest.mark.parametrize("ask", [_by_worker, _by_receiver, _by_receiver_in_a_pipeline, _by_flow])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.split()[0])
def test_the_next_connection_asks_again(demoted: Callable[..., Demoted], ask: Callable[[str], Any], error: str) -> None:
    """A server that is not the primary, not ready or does not know us any more: the command is tried once more, on a
    new connection."""
    server = demoted(error)
    assert ask(server.url) == 7
    assert server.connections == 2


def test_tools_ask_again_with_their_next_command(demoted: Callable[..., Demoted]) -> None:
    """A command that a person waits for is not tried twice, but the next one goes to a new connection."""
    server = demoted(ERRORS[0])
    with connection.for_tools(server.url) as client:
        with pytest.raises(RedisError) as caught:
            client.dbsize()
        assert client.dbsize() == 7
    assert str(connection.diagnose(caught.value)) == (
        f"Redis takes no writes: NotPrimary: {ERRORS[0]}; see its log: its disk, its role, its replicas"
    )


def test_the_doorbell_asks_again(own_valkey: Callable[..., Any], wait_for: Callable[..., None]) -> None:
    """A worker that waits on a primary is woken when that is demoted, and waits on a new connection then."""
    server = own_valkey()
    redis = server.client()
    rung = asyncio.Event()

    async def wait(client: Redis) -> None:
        doorbell = Doorbell(client, ["other"], 60, rung.set)
        try:
            doorbell.listen()
            first = doorbell._connection._sock
            await asyncio.to_thread(wait_for, lambda: redis.info("clients")["blocked_clients"])
            redis.replicaof("127.0.0.1", 1)  # type: ignore[arg-type]
            await asyncio.wait_for(rung.wait(), 60)
            redis.replicaof("NO", "ONE")
            doorbell.listen()
            assert doorbell._connection._sock is not first
        finally:
            doorbell.close()

    with connection.for_worker(server.url) as client:
        asyncio.run(wait(client))


def test_missing_right_keeps_the_connection(own_valkey: Callable[..., Any]) -> None:
    """NOPERM closes nothing: Redis applies changed rights to open connections."""
    server = own_valkey()
    server.client().execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-dbsize")
    with connection.for_tools(f"{server.url}?username=few&password=pw") as client:
        number = client.client_id()
        with pytest.raises(NoPermissionError):
            client.dbsize()
        assert client.client_id() == number


@pytest.fixture
def rotated(own_valkey: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Valkey, the text that WA_REDIS_URL_FILE holds at first, and a function that changes the password there."""
    server = own_valkey()
    admin, file = server.client(), tmp_path / "url"
    monkeypatch.setenv("WA_REDIS_URL_FILE", str(file))
    file.write_text(server.url)

    def rotate(password: str, in_file: str | None = None) -> None:
        admin.config_set("requirepass", password)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        file.write_text(f"{server.url}?password={in_file or password}\n")

    return rotate


def test_password_is_read_again(rotated: Callable[..., None]) -> None:
    """A new connection authenticates with what the file holds now, though there was no password at the start."""
    url = url_of(load())

    async def ask() -> None:
        async with connection.for_receiver(url) as client:
            assert await client.ping()
            for password in ("one", "two"):
                rotated(password)
                assert await client.ping()

    asyncio.run(ask())
    with connection.for_worker(url_of(load())) as client:
        assert client.ping()
        rotated("three")
        assert client.ping()
        rotated("four", in_file="wrong")
        with pytest.raises(RedisError) as caught:
            client.ping()
        assert str(connection.diagnose(caught.value)).startswith("Redis refuses the user or the password")
        rotated("five")
        assert client.ping()


URLS = {
    "redis://h": (None, None),
    "redis://:p%40ss%3Aw@h:1/0?db=1": (None, "p@ss:w"),
    "rediss://me:secret@h:1/0?ssl_certfile=/a@b": ("me", "secret"),
    "unix:///path/with@/s.sock?password=p%26w&username=me": ("me", "p&w"),
    "unix://me@/s.sock?password=x": ("me", "x"),
    "redis+sentinel://me:secret@one:1,two,[::1]:3/main/4": ("me", "secret"),
    "rediss+cluster://:p%2F@one,[::1]:2/0?ssl_ca_certs=/a": (None, "p/"),
}


@pytest.mark.parametrize("url", URLS)
def test_credentials(url: str) -> None:
    """User and password are found in each form of URL, decoded."""
    assert urls.credentials(url) == URLS[url]


def test_as_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file counts where it names the same Redis, alone or among several; WA_REDIS_URL goes before it."""
    url, file = "redis://:old@h:1/0", tmp_path / "url"
    assert urls.as_now(url) == url
    monkeypatch.setenv("WA_REDIS_URL_FILE", str(file))
    assert urls.as_now(url) == url
    file.write_text("redis://:x@i:1/0, redis://me:new@h:1/0\n")
    assert urls.as_now(url) == "redis://me:new@h:1/0"
    for text in (b"redis://:new@other:1/0", b"", b"\xff", b"redis://h/0,redis://h/0"):
        file.write_bytes(text)
        assert urls.as_now(url) == url
    file.write_text("redis://:new@h:1/0")
    monkeypatch.setenv("WA_REDIS_URL", url)
    assert urls.as_now(url) == url


def test_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that serves one of several Redis finds it by its address, whatever the password is now."""
    both = "redis://:a@one/0,redis://:b@two/0"
    assert url_of(load(redis_url=both)) == both
    monkeypatch.setenv(urls.ONLY, "two/0")
    assert url_of(load(redis_url=both)) == "redis://:b@two/0"
    assert url_of(load(redis_url="redis://three/0")) == "redis://three/0"


@pytest.mark.parametrize("connected", [False, True])
def test_time_for_a_large_command(redis_url: str, connected: bool) -> None:
    """A receiver's connection waits longer for a large command, also when it has to connect first, and no longer for
    the next one.
    """

    async def scenario() -> list[float]:
        client = connection.for_receiver(redis_url)
        one = client.connection_pool.make_connection()
        try:
            if connected:
                await one.connect()
            seconds = []
            for value in (bytes(8 << 20), b""):
                await one.send_command("SET", "large", value)
                seconds.append(one.socket_timeout)
                assert await one.read_response() in (b"OK", "OK")
            return seconds
        finally:
            await one.disconnect()
            await client.aclose()

    large, small = asyncio.run(scenario())
    assert large == pytest.approx(connection.seconds_for(8 << 20), rel=0.01)
    assert small == pytest.approx(connection.COMMAND_SECONDS, rel=0.01)
