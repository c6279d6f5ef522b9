"""Connects to a destination, and says in plain words why that failed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from urllib.parse import urlsplit

from ingest import trust
from ingest.settings import host_port
from workers.destinations.destination import Destination

_NUMBER = re.compile(r"\[Errno (\d+)\]")
"""Of an error that tells of several addresses of a host, and has no number itself."""


async def reach(destination: Destination) -> None:
    """Try to connect; nothing is posted. Raises OSError, TimeoutError."""
    host, port = _address(destination.url)
    tls = tls_of(destination)
    async with asyncio.timeout(destination.timeout):
        _, writer = await asyncio.open_connection(host, port, ssl=None if tls is True else tls)
        writer.close()


def tls_of(destination: Destination) -> ssl.SSLContext | bool:
    """Whom to trust, and who we are. True for an address without TLS."""
    if not destination.url.startswith("https:"):
        return True
    context = trust.context(ca_file=destination.ca_file)
    if destination.client_cert is not None:
        context.load_cert_chain(destination.client_cert, destination.client_key)
    return context


def why(error: Exception, url: str) -> str:
    """Why an address was not reached, with its host and port: `connection refused: localhost:3000`.

    `error` is of asyncio or of aiohttp, which wraps it. Of others the name is told: they may quote an answer.
    """
    host, port = _address(url)
    place = host_port(host, port)
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {place} ({cause.verify_message.rstrip('.')}); see ca_file"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS connection: {place} ({cause.reason or 'no reason given'})"
    if isinstance(cause, socket.gaierror):
        is_unknown = cause.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return f"{'unknown host' if is_unknown else str(cause.strerror).lower()}: {host}"
    if isinstance(cause, OSError) and (number := cause.errno or _number_in(cause)):
        return f"{os.strerror(number).lower()}: {place}"
    return type(error).__name__


def _number_in(error: OSError) -> int | None:
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else None


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
