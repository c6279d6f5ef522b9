"""Redis behind TLS that demands a client certificate: what works, and what is said when it does not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis import Redis
from redis.exceptions import RedisError

from ingest.settings import SettingsError, load
from ingest.settings import redis_url as url_of
from ingest.store.connection import for_receiver, for_tools, for_worker
from tests.old_ca import OldCA

ROOT = Path(__file__).parents[3]
STATUS = b'{"statuses":[{"id":"s","recipient_id":"15550001","status":"read"}]}'
MAKERS = [for_receiver, for_worker, for_tools]


class Terminator:
    """Takes TLS connections on a port of loopback and passes what is inside on to a unix socket."""

    def __init__(self, path: Path, context: ssl.SSLContext) -> None:
        self._path, self._context = str(path), context
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # refused handshakes are what is tested
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(30)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port: int = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        here = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not here]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(self._path)
        await asyncio.gather(_pass_on(reader, their_writer), _pass_on(their_reader, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
    finally:
        writer.transport.abort()


class Authority:
    """A CA with the files that a client names in its URL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "other.pem")
        client = self.ca.issue_cert("client")
        client.private_key_pem.write_to_path(folder / "key.pem")
        client.cert_chain_pems[0].write_to_path(folder / "cert.pem")

    def context(self, name: str = "localhost", **validity: datetime) -> ssl.SSLContext:
        """For a server that calls itself so, and demands a certificate of this CA."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name, **validity).configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def url(self, port: int, **more: str) -> str:
        """The right URL but for `more`: NAME=FILE, or an empty FILE to leave that option out."""
        options = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "cert.pem", "ssl_keyfile": "key.pem"} | more
        query = "&".join(f"{name}={self.folder / file}" for name, file in options.items() if file)
        return f"rediss://default:hunter2@localhost:{port}/0?{query}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def behind_tls(own_valkey: Callable[..., Any]) -> Iterator[Callable[[ssl.SSLContext], tuple[int, Redis]]]:
    """A Valkey with the password hunter2 behind TLS: its port, and a client that needs no TLS."""
    made: list[Terminator] = []

    def start(context: ssl.SSLContext) -> tuple[int, Redis]:
        server = own_valkey(appendonly="yes", appendfsync="no")
        plain = server.client()
        plain.config_set("requirepass", "hunter2")
        made.append(Terminator(server.path, context))
        return made[-1].port, plain

    yield start
    for terminator in made:
        terminator.close()


def _run(folder: Path, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    own = {"WA_REDIS_URL": url, "WA_HANDLERS": "bot:handlers", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *command],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_goes_through_tls(
    authority: Authority,
    behind_tls: Callable[..., tuple[int, Redis]],
    start_receiver: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Receiver, workers and commands work with a CA, a client certificate and a password in the URL."""
    port, _ = behind_tls(authority.context())
    url = authority.url(port)
    (tmp_path / "bot.py").write_text(
        "from workers import Handlers\n\nhandlers = Handlers()\nhandlers.status()(lambda status: print(status.id))\n"
    )
    receiver = start_receiver(url)
    assert receiver.post(STATUS).status == 200
    assert b"wa_redis_up 1.0" in receiver.admin("/metrics").body
    done = _run(tmp_path, url, "work", "--burst")
    assert (done.returncode, done.stdout) == (0, "s\n"), done.stderr
    shown = json.loads(_run(tmp_path, url, "status", "--json").stdout)
    assert shown["counts"]["handled.status"] == 1
    assert "hunter2" not in receiver.log() + done.stderr


@pytest.mark.parametrize("make", MAKERS)
def test_a_server_with_a_certificate_of_an_old_ca(
    make: Callable[..., Any], behind_tls: Callable[..., tuple[int, Redis]], tmp_path: Path
) -> None:
    """A Redis whose private CA knows only the old forms of certificates is reached on every Python."""
    ca = OldCA(tmp_path / "ca")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca.issue("localhost"))
    port, _ = behind_tls(context)
    client = make(url_of(load(redis_url=f"rediss://default:hunter2@localhost:{port}/0?ssl_ca_certs={ca.file}")))

    async def ping() -> bool:
        async with client:
            return bool(await client.ping())

    if isinstance(client, Redis):
        with client:
            assert client.ping()
    else:
        assert asyncio.run(ping())


def _expired() -> dict[str, datetime]:
    return {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2021, 1, 1, tzinfo=UTC)}


BROKEN: dict[str, tuple[Any, dict[str, str], str]] = {
    "other CA": ({}, {"ssl_ca_certs": "other.pem"}, "no TLS with Redis: .*certificate verify failed"),
    "host name": ({"name": "elsewhere.test"}, {}, "no TLS with Redis: .*Hostname mismatch.*'localhost'"),
    "expired": (_expired(), {}, "no TLS with Redis: .*certificate has expired"),
    "no certificate": ({}, {"ssl_certfile": "", "ssl_keyfile": ""}, "Redis .*ssl_certfile"),
    "other key": ({}, {"ssl_keyfile": "other.pem"}, "no TLS with Redis: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_tls_is_one_line(
    case: str,
    authority: Authority,
    behind_tls: Callable[..., tuple[int, Redis]],
    start_receiver: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A command says in one line what is wrong, and the receiver logs it: no traceback, no password."""
    server, client, says = BROKEN[case]
    url = authority.url(behind_tls(authority.context(**server))[0], **client)
    done = _run(tmp_path, url, "status")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    receiver = start_receiver(url)
    assert receiver.post(STATUS).status == 503
    for said in (done.stderr, receiver.log()):
        assert re.search(says, said), said
        assert "Traceback" not in said
        assert "hunter2" not in said


WRONG_OPTIONS = {
    "rediss://:hunter2@h?ssl_ca_cert=/x": r"ssl_ca_cert is no option of such a URL; with TLS: rediss://.*\?ssl_ca_certs=",
    "redis://:hunter2@h?ssl_ca_certs=/x": r"ssl_ca_certs is no option of such a URL; with TLS: rediss://",
    "rediss://:hunter2@h?ssl_ca_certs=/nowhere.pem": r"ssl_ca_certs: /nowhere\.pem cannot be read$",
    "rediss://:hunter2@h?ssl_certfile=/nowhere.pem": r"ssl_certfile: /nowhere\.pem cannot be read$",
    "rediss://:hunter2@h?ssl_cert_reqs=maybe": r"Invalid SSL Certificate Requirements Flag: maybe$",
    "redis://:hunter2@h?db=one": r"the value of db cannot be used$",
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("url", WRONG_OPTIONS)
def test_wrong_options(make: Callable[..., Any], url: str) -> None:
    """An option that is misspelt, out of place or names no file is one line that names variable and option."""
    with pytest.raises(SettingsError, match="^WA_REDIS_URL: " + WRONG_OPTIONS[url]) as caught:
        make(url_of(load(redis_url=url)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("module", ["ingest.server", "workers.engine.worker"])
def test_processes_do_not_start_with_a_wrong_option(module: str, tmp_path: Path) -> None:
    """Receiver and worker end with that line, and are not started again."""
    stdin, ours = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"WA_REDIS_URL": "rediss://:hunter2@h?ssl_ca_cert=/x", "WA_LISTEN": "127.0.0.1:0"},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(stdin)
    os.close(ours)
    assert done.returncode == 78
    assert done.stderr.startswith("wa-ingest: WA_REDIS_URL: ssl_ca_cert is no option")
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


async def _works(client: Any) -> bool:
    """Whether a client is answered; its first try may only find that its connection has ended."""
    for _ in range(2):
        try:
            reply = client.ping()
            return bool(await reply if asyncio.iscoroutine(reply) else reply)
        except (RedisError, OSError):
            continue
    return False


@pytest.mark.parametrize("make", MAKERS)
def test_renewed_certificate(
    authority: Authority, behind_tls: Callable[..., tuple[int, Redis]], make: Callable[..., Any]
) -> None:
    """A new connection reads the certificate again: one that cannot be used is noticed, one put right helps."""
    port, plain = behind_tls(authority.context())
    client = make(url_of(load(redis_url=authority.url(port))))
    certificate = authority.folder / "cert.pem"
    good = certificate.read_bytes()

    async def ask() -> list[bool]:
        seen = []
        for written in (good, b"none", good):
            certificate.write_bytes(written)
            plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            seen.append(await _works(client))
        if make is for_receiver:
            await client.aclose()
        return seen

    assert asyncio.run(ask()) == [True, False, True]
