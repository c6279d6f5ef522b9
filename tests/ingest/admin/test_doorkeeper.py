"""Under which names the admin listener is called."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from ingest.admin.doorkeeper import Names
from ingest.settings import load

Start = Callable[..., Any]

OWN = (
    "localhost",
    "LocalHost.:9100",
    "wa.localhost:1",
    "127.0.0.1:9100",
    "192.0.2.7",
    "[::1]:9100",
    "[fe80::1%25eth0]:9100",
    socket.gethostname(),
    "receiver:9100",
    "Ops.Example.com",
)

FOREIGN = ("", "evil.example:9100", "127.0.0.1.evil.example", "localhost.evil.example", "x[::1]", "127.1")


@pytest.fixture(scope="module")
def receiver(valkey: Any, start_module_receiver: Start) -> Any:
    """One receiver for the module, which may be called by two further names."""
    url = f"unix://{valkey.unix_socket_path}"
    return start_module_receiver(
        url, WA_ADMIN_HOSTS="receiver, ops.example.com", WA_ADMIN_TOKEN="correct-horse-battery"
    )


def status(receiver: Any, start: str, *hosts: str) -> int:
    """The answer's status to a request with these Host headers."""
    sender = receiver.sender(receiver.admin_port)
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    sender.send(f"{start} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
    answer = sender.answer()
    assert "evil" not in answer.body.decode()
    return int(answer.status)


@pytest.mark.parametrize("host", OWN)
def test_own_names(receiver: Any, host: str) -> None:
    """Loopback names, IP addresses, this machine's name and those of WA_ADMIN_HOSTS are answered, with any port."""
    assert status(receiver, "GET /metrics", host) == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names(receiver: Any, host: str) -> None:
    """Any other name is refused: another site's page may have made it point here (DNS rebinding)."""
    assert status(receiver, "GET /metrics", host) == 403


@pytest.mark.parametrize("start", ["GET /", "GET /events", "GET /readyz", "POST /actions/check", "GET /other"])
def test_everything_is_checked(receiver: Any, start: str) -> None:
    """No page, figure or action is given under another name, which is logged without the name, and counted."""
    assert status(receiver, start, "evil.example") == 403
    assert status(receiver, start, "localhost", "evil.example") == 400
    assert "WA_ADMIN_HOSTS" in receiver.log()
    assert "evil" not in receiver.log()
    assert b'wa_admin_refused_total{reason="host"}' in receiver.admin("/metrics").body


def test_health_checks_without_a_name(receiver: Any) -> None:
    """A balancer that asks with HTTP/1.0 and no Host header is answered; browsers always send one."""
    sender = receiver.sender(receiver.admin_port)
    sender.send(b"GET /readyz HTTP/1.0\r\n\r\n")
    assert sender.answer().status == 200


def test_the_host_it_listens_on() -> None:
    """A name in WA_ADMIN_LISTEN is one of its names."""
    request = make_mocked_request("GET", "/", {"Host": "ops.internal:9100"})
    assert Names(load(admin_listen="ops.internal:9100")).include(request)
    assert not Names(load()).include(request)
