"""Any bytes at the public listener of a real receiver, any body through a real worker."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from ingest.store import keys
from tests.fuzz.test_reading import JSON, SEEDS
from tests.ingest.conftest import start_module_receiver  # noqa: F401

ROOT = Path(__file__).parents[2]
DOCUMENTED = {200, 400, 401, 403, 404, 405, 408, 413, 503}
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
QUICK = settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

METHODS = st.sampled_from([b"POST", b"GET", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"post", b"\xff"])
PATHS = st.sampled_from(
    [
        b"/webhook",
        b"/",
        b"*",
        b"http://x/webhook",
        b"/webhook?hub.mode=subscribe&hub.verify_token=t&hub.challenge=%0d%0a",
    ]
) | st.binary(max_size=20)
NAMES = st.sampled_from(
    [
        b"Content-Length",
        b"Transfer-Encoding",
        b"Authorization",
        b"X-Hub-Signature-256",
        b"X-Turn-Hook-Signature",
        b"X-Forwarded-For",
        b"Expect",
        b"Connection",
        b"Upgrade",
        b"Content-Encoding",
        b"Host",
    ]
)
VALUES = st.sampled_from(
    [
        b"0",
        b"5",
        b"chunked",
        b"gzip, chunked",
        b"100-continue",
        b"close",
        b"upgrade",
        b"websocket",
        b"127.0.0.1",
        b"Basic Og==",
    ]
) | st.binary(max_size=30)
HEADERS = st.lists(st.tuples(NAMES | st.binary(max_size=10), VALUES), max_size=6)


@st.composite
def requests(draw: Any) -> bytes:
    """Nearly a request: each part is usual, odd, or garbage."""
    head = b" ".join([draw(METHODS), draw(PATHS), draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b""]))])
    lines = [name + b": " + value for name, value in draw(HEADERS)]
    return b"\r\n".join([head, *lines, b"", draw(st.binary(max_size=60))])


@pytest.fixture(scope="module")
def guarded(valkey: Any, start_module_receiver: Callable[..., Any]) -> Any:  # noqa: F811
    """A receiver with a guard of every kind that reads the request."""
    return start_module_receiver(
        f"unix://{valkey.unix_socket_path}",
        WA_APP_SECRET="secret",
        WA_BASIC_AUTH="user:password",
        WA_VERIFY_TOKEN="t",
        WA_ALLOW_NETWORKS="127.0.0.0/8",
        WA_TRUSTED_PROXIES="127.0.0.1",
        WA_BODY_TIMEOUT="1s",
    )


def exchange(port: int, sent: bytes) -> bytes:
    """All that is answered until the connection ends, or half a second long nothing comes."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answered = b""
        try:
            while more := connection.recv(65536):
                answered += more
        except ConnectionResetError:
            pass
        return answered


@given(st.lists(requests(), min_size=1, max_size=3) | st.lists(st.binary(max_size=200), min_size=1, max_size=1))
@QUICK
def test_any_bytes(guarded: Any, redis: Redis, sent: list[bytes]) -> None:
    """Whatever a stranger sends is answered with a documented status or not at all; nothing of it is kept or logged as
    an error, and the receiver goes on."""
    answered = exchange(guarded.port, b"".join(sent))
    assert {int(status) for status in STATUS.findall(answered)} <= DOCUMENTED | {100}
    assert guarded.process.poll() is None
    assert not redis.exists(keys.LEDGER)


def test_nothing_was_an_error(guarded: Any) -> None:
    """After all of them the log holds no error (a refusal is a warning), and the receiver is as ready as before."""
    assert guarded.admin("/readyz").status == 200
    assert not re.search(r'"level": "(error|critical)"|Traceback', guarded.log())


def test_any_body_through_a_worker(
    redis: Redis, commit: Callable[..., None], run_module: Callable[..., Any], tmp_path: Path
) -> None:
    """Whatever bodies wait, a worker takes them all, ends well, and owes nothing: each is handled or a dead letter."""
    bodies = [seed.read_bytes() for seed in SEEDS]

    @given(st.binary(max_size=300) | JSON.map(orjson.dumps))
    @QUICK
    def gather(body: bytes) -> None:
        bodies.append(body)

    gather()
    commit(*bodies)
    process = run_module(
        "workers.cli", "work", "--burst", cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "process ended" not in log
    assert "Traceback" not in log
    assert redis.zcard("rq:wa:ledger") == 0
    assert len(bodies) > 300
