"""Why a destination is not reached, in plain words."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from workers.destinations.destination import Destination
from workers.destinations.reaching import reach, why


async def fetch(url: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(url):
        pass


async def connect(url: str) -> None:
    await reach(Destination(name="crm", url=url))


WAYS = pytest.mark.parametrize("way", [fetch, connect], ids=["posted", "checked"])


def said(way: Callable[[str], Any], url: str) -> str:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - what it says is what is tested
        asyncio.run(way(url))
    return why(raised.value, url)


@WAYS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_refused(way: Callable[[str], Any], host: str, free_port: Callable[[], int]) -> None:
    """A port on which nobody listens refuses, at one address of the host or at several."""
    port = free_port()
    assert said(way, f"http://{host}:{port}/webhook?token=x") == f"connection refused: {host}:{port}"


@WAYS
def test_unknown_host(way: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not to be found is named; that no name server answers is told apart from it."""
    for number, text in ((socket.EAI_NONAME, "unknown host"), (socket.EAI_AGAIN, "temporary failure")):

        def look(*arguments: Any, number: int = number, text: str = text) -> Any:
            raise socket.gaierror(number, text)

        monkeypatch.setattr(socket, "getaddrinfo", look)
        assert said(way, "http://crm.internal/webhook") == f"{text}: crm.internal"


@WAYS
def test_certificate(way: Callable[[str], Any], application: Any, tmp_path: Path) -> None:
    """A certificate of nobody that is known is told with the remedy; so is a server without TLS."""
    trustme = pytest.importorskip("trustme")
    app = application()
    url = app.url.replace("http://", "https://")
    place = app.host.removeprefix("http://")
    assert said(way, url).startswith(f"no TLS connection: {place} (")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    app.stop()
    app.tls = context
    app.start()
    found = said(way, url)
    assert found.startswith(f"certificate not trusted: {place} (")
    assert found.endswith("; see ca_file")


def test_others() -> None:
    """Of an error that may quote an answer only the name is told."""
    assert why(aiohttp.ClientPayloadError("Ada wrote"), "http://crm/") == "ClientPayloadError"
