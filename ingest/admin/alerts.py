"""Posts to WA_ALERT_URL, as Slack takes it, when a finding begins and when it ends.

One process of a receiver looks. What all receivers see alike is posted by one of them, in turns that Redis gives; what
a receiver sees by itself, such as that Redis is away, it posts itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import IO

import aiohttp
from redis import Redis
from redis.exceptions import RedisError

from ingest import trust
from ingest.commit.committer import Committer
from ingest.settings import Settings
from ingest.state import alerts, health, snapshot
from ingest.state.alerts import Book, News
from ingest.state.backlog import span
from ingest.state.health import Finding
from ingest.store import connection
from ingest.telemetry.outage import Outage

LINES = 20
"""Most lines in one post."""

_LINE_CHARACTERS = 500
_POST_SECONDS = 5.0  # with the reading before it less than the turn, or two receivers would post the same
_SIGNS = {"critical": "🔴", "warning": "🟡", "info": "🔵"}


class Alerts:
    """Looks and posts until it is cancelled."""

    def __init__(self, url: str, settings: Settings, clients: dict[str, Redis], committer: Committer) -> None:
        self._url = url
        self._clients = clients
        self._committer = committer
        self._reader = snapshot.Reader(settings, clients)
        self._own = Book()
        self._tls = trust.context()
        self._unread = Outage("alerts: the state of the pipeline cannot be read", "alerts: it can be read again")
        self._unposted = Outage("alerts cannot be posted, they are tried again", "alerts are posted again")

    async def run(self) -> None:
        with _lock_file() as lock:
            while True:
                await asyncio.sleep(alerts.STEP_SECONDS)
                if not _is_first(lock):
                    continue
                try:
                    await self._look()
                except (RedisError, OSError) as error:
                    self._unread.down(str(connection.diagnose(error)))
                except Exception as error:  # whatever is wrong with what lies in Redis, it must not end the alerts
                    self._unread.down(type(error).__name__)
                else:
                    self._unread.up()

    async def _look(self) -> None:
        now = await asyncio.to_thread(self._reader.read, await self._committer.refused(), False)
        found = alerts.worth_posting(health.findings(now))
        await self._tell(self._own, [one for one in found if alerts.is_of_one_receiver(one)], time.time())
        if now.backlog is not None:
            there = [client for name, client in self._clients.items() if name not in now.backlog.away]
            await self._tell_for_all(there, [one for one in found if not alerts.is_of_one_receiver(one)])

    async def _tell_for_all(self, clients: list[Redis], found: list[Finding]) -> None:
        """Tell what all receivers see, unless another one is at it."""
        now = await asyncio.to_thread(alerts.take_turn, clients[0])
        if now is None:
            return
        try:
            book = await asyncio.to_thread(alerts.read, clients)
            await self._tell(book, found, now)
            await asyncio.to_thread(alerts.write, clients, book)
        finally:
            await asyncio.to_thread(alerts.end_turn, clients[0])

    async def _tell(self, book: Book, found: list[Finding], now: float) -> None:
        news = book.look(found, now)
        if (news.begun or news.ended) and await self._post(text_of(news)):
            book.posted(news)

    async def _post(self, text: str) -> bool:
        """Did the URL take it?"""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_POST_SECONDS)) as session,
                session.post(self._url, json={"text": text}, allow_redirects=False, ssl=self._tls) as answer,
            ):
                reason = None if answer.status < 300 else f"answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # its text names the URL, which is a secret
            reason = type(error).__name__
        self._unposted.report(reason)
        return reason is None


def _lock_file() -> IO[bytes]:
    """A file that the processes of a receiver share, in the folder of their metrics; a lone process has its own."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder, "alerts.lock").open("wb") if folder else tempfile.TemporaryFile()


def _is_first(lock: IO[bytes]) -> bool:
    """Is this the process of its receiver that looks? The others wait until it has ended."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def text_of(news: News) -> str:
    """What to post, in the form of Slack."""
    lines = [f"{_SIGNS[one.level]} {_sentence(one)}" for one in news.begun]
    lines += [f"✅ Over after {span(one.seen - one.since)}. It was: {one.text}" for one in news.ended.values()]
    shown = [_escaped(line[:_LINE_CHARACTERS]) for line in lines[:LINES]]
    if more := len(lines) - len(shown):
        shown.append(f"and {more} more")
    return "\n".join([f"*wa-ingest on {socket.gethostname()}*", *shown])


def _sentence(finding: Finding) -> str:
    return f"{finding.text}. {finding.remedy}" if finding.remedy else finding.text


def _escaped(line: str) -> str:
    """Characters with a meaning of their own in Slack, such as those of `<!channel>`."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
