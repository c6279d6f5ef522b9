"""Who may speak to the admin listener: under which names it is called, and what a wrong token costs."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

from aiohttp import web

from ingest import metrics
from ingest.loggers import get_logger
from ingest.settings import Settings

log = get_logger(__name__)

WRONG_TOKEN_SECONDS = 0.5
"""From the answer to one wrong token to the next one's, in a receiver process."""

WAITING = 20
"""Most wrong tokens that wait for their answer, so that there are connections left for others. More are told
at once that they are too many.
"""


class Names:
    """The names under which the listener may be called.

    A browser sends the name that its page was loaded under. Another site's page can make its own name point here (DNS
    rebinding) and would then read the figures as if it were ours; but its name is none of these.
    """

    def __init__(self, settings: Settings) -> None:
        own = (settings.admin_listen[0], socket.gethostname())
        self._known = {"localhost", *map(_plain, (*own, *settings.admin_hosts))}

    def include(self, request: web.BaseRequest) -> bool:
        """Whether the Host header is one of them, or an IP address. Health checks of HTTP/1.0 send none."""
        given = request.headers.get("Host")
        if given is None:
            return True
        host = _plain(_without_port(given))
        return host in self._known or host.endswith(".localhost") or _is_address(host)

    def refuse(self) -> str:
        """Count and log a request under another name; what to tell it."""
        metrics.admin_refused("host")
        log.warning("admin listener called by another name", remedy="add the name to WA_ADMIN_HOSTS if it is yours")
        return "This listener does not know the name in your Host header: add it to WA_ADMIN_HOSTS.\n"


class WrongTokens:
    """Answers wrong tokens one after another, slowly. Right ones never come here."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def wait(self) -> bool:
        """Count and log one, and return when it may be answered; False: at once, because too many wait."""
        metrics.admin_refused("token")
        log.warning("wrong admin token", remedy="see who reaches WA_ADMIN_LISTEN")
        if self._waiting >= WAITING:
            return False
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(WRONG_TOKEN_SECONDS)
        finally:
            self._waiting -= 1
        return True


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _plain(host: str) -> str:
    return host.strip().rstrip(".").lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
