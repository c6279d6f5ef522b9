"""Posts notifications as the real senders do: a number at a time or at a rate, each again until it gets a 200."""

from __future__ import annotations

import asyncio
import heapq
import hmac
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from ssl import SSLContext
from typing import Protocol

import aiohttp

from workers.destinations.reaching import why
from workers.simulator.bodies import Notification
from workers.simulator.counters import Tally
from workers.simulator.delays import DELAYS, Form

SIGNATURE = "X-Hub-Signature-256"

# In this order: the later ones are more general.
REFUSALS: dict[type[Exception], str] = {
    TimeoutError: "timeout",
    aiohttp.ClientConnectorDNSError: "dns",
    aiohttp.ClientSSLError: "tls",
    aiohttp.ClientConnectorError: "refused",
    aiohttp.ClientError: "broken",
    OSError: "broken",
}
"""What a request that gets no answer counts as."""

HOPELESS = {"refused": 4, "dns": 4, "tls": 4, "broken": 8}
"""If nothing was ever answered, a notification that failed this often, the last time in this way, ends the run.

Broken connections get more tries: a receiver may be starting, or demand a certificate without saying so (TLS 1.3).
"""

_REMEDIES = {
    "dns": "the name is not known: check the host in --to",
    "tls": "TLS fails: check the certificate, --ca-file, --client-cert, and https in --to",
    "refused": "no connection: check host and port in --to, and that the receiver runs",
    "broken": "connections are closed without an answer: check http or https in --to, and --client-cert",
}

UNAUTHORIZED = "401"

MOST_CONNECTIONS = {"onprem": 24, "cloud": 1000}

_CANNOT_CONNECT = frozenset({"dns", "tls", "refused"})
_LAST_SECONDS = 1.0  # for what is under way when a run is stopped


class Unreachable(Exception):
    """Nothing at the address ever answered. The message says what is wrong, in one line."""


class Unauthorized(Exception):
    """The receiver answers 401, and has acknowledged nothing. The message says what to do, in one line."""


class Observer(Protocol):
    """Is told what happens to each notification."""

    def begun(self, notification: Notification) -> None:
        """It is about to be posted for the first time."""

    def acknowledged(self, notification: Notification) -> None:
        """The first 200 came."""


@dataclass(frozen=True)
class Plan:
    """How to post. Times in seconds.

    `form` gives the delays between retries, all divided by `speed_up`. At most `connections` requests are under way;
    None: as many as the sender of that form may have, for a `rate`. With a `rate` (notifications a second) new ones
    are due at an even pace whatever the answers, and latencies count from the moment they were due. Without, the next
    one goes out when a connection is free (and, after a connection could not be made, when one could again).

    The load ends after `count` notifications or `seconds`, whichever comes first; None: no such end. A share of
    `duplicates` (0 to 1) is posted once more after it was acknowledged, with the delay of a first retry, as when the
    200 was lost. `secret` signs as the Cloud API does. User and password of `url` are sent as Basic auth.
    """

    url: str
    form: Form = "cloud"
    connections: int | None = 6
    rate: float | None = None
    count: int | None = None
    seconds: float | None = None
    timeout: float = 10.0
    speed_up: float = 1.0
    duplicates: float = 0.0
    secret: bytes | None = None
    ssl: SSLContext | None = None
    seed: int = 0


async def send(
    plan: Plan,
    notifications: Iterable[Notification],
    *,
    tally: Tally | None = None,
    observer: Observer | None = None,
    stop: asyncio.Event | None = None,
) -> Tally:
    """Post notifications, each until it is acknowledged or given up, and return the tally. Raises Unreachable,
    Unauthorized.

    Bodies are taken when they are due. A `tally` that is passed in can be read meanwhile. When `stop` is set, requests
    under way get a second, and the rest stays unacknowledged.
    """
    sending = _Sending(plan, iter(notifications), tally or Tally(), observer, stop or asyncio.Event())
    await sending.run()
    return sending.tally


@dataclass(slots=True)
class _Post:
    """A notification on its way."""

    notification: Notification
    due: float
    begun: float
    tries: int = 0
    duplicate: bool = False


class _Sending:
    """One run."""

    def __init__(
        self,
        plan: Plan,
        notifications: Iterator[Notification],
        tally: Tally,
        observer: Observer | None,
        stop: asyncio.Event,
    ) -> None:
        self._plan = plan
        self._fresh = itertools.islice(notifications, plan.count)
        self._fresh_left = True
        self.tally = tally
        self._observer = observer
        self._stop = stop
        self._changed = asyncio.Event()
        self._retries: list[tuple[float, int, _Post]] = []
        self._order = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = plan.connections or MOST_CONNECTIONS[plan.form]
        self._reached = True
        self._hopeless: Unreachable | Unauthorized | None = None
        self._random = Random(plan.seed)  # noqa: S311 - chooses duplicates

    async def run(self) -> None:
        self._start, self.tally.began = time.monotonic(), time.time()
        stopping = asyncio.create_task(self._wake_on_stop())
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._plan.ssl or True),
                timeout=aiohttp.ClientTimeout(total=self._plan.timeout),
                headers={"Content-Type": "application/json", "User-Agent": "wa-ingest simulate"},
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as self._session:
                await self._dispatch()
        finally:
            stopping.cancel()
            self.tally.seconds = time.monotonic() - self._start
        if self._hopeless:
            raise self._hopeless

    async def _wake_on_stop(self) -> None:
        await self._stop.wait()
        self._changed.set()

    async def _dispatch(self) -> None:
        """Start the request of what is due, one after another, until nothing can come any more."""
        async with asyncio.TaskGroup() as group:
            while (post := await self._next()) is not None:
                task = group.create_task(self._try(post))
                self._tasks.add(task)
                task.add_done_callback(self._done)
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=_LAST_SECONDS)
                for task in late:
                    task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def _next(self) -> _Post | None:
        """What is to be posted now, retries before new ones; waits for it and for a connection. None at the end."""
        while True:
            if self._stop.is_set() or self._hopeless:
                self.tally.stopped = self._stop.is_set()
                return None
            self._changed.clear()
            if len(self._tasks) >= self._most:
                await self._changed.wait()
                continue
            now = time.monotonic()
            if self._retries and self._retries[0][0] <= now:
                self.tally.waiting -= 1
                return self._taken(heapq.heappop(self._retries)[2], now)
            fresh_due = self._fresh_due()
            if fresh_due <= now and (notification := self._take_fresh()) is not None:
                return self._taken(_Post(notification, due=fresh_due, begun=now), now)
            if not self._fresh_left and not self._retries and not self._tasks:
                return None
            await self._wait_until(min(self._fresh_due(), self._retries[0][0] if self._retries else math.inf))

    def _fresh_due(self) -> float:
        """When the next new notification is due; inf: not before something else happens."""
        plan, elapsed = self._plan, time.monotonic() - self._start
        if plan.seconds is not None and elapsed >= plan.seconds:
            self._fresh_left = False
        if not self._fresh_left or (plan.rate is None and not self._reached):
            return math.inf
        return self._start + (self.tally.sent / plan.rate if plan.rate else 0.0)

    def _take_fresh(self) -> Notification | None:
        notification = next(self._fresh, None)
        if notification is None:
            self._fresh_left = False
            return None
        self.tally.sent += 1
        if self._observer:
            self._observer.begun(notification)
        return notification

    def _taken(self, post: _Post, now: float) -> _Post:
        if self._plan.rate is None:
            post.due = now  # then the wait for a free connection is no delay of the receiver
        return post

    async def _wait_until(self, moment: float) -> None:
        end = self._plan.seconds
        if end is not None and self._fresh_left:
            moment = min(moment, self._start + end)
        with suppress(TimeoutError):
            # Not by the loop's own clock: uvloop's has milliseconds.
            async with asyncio.timeout(None if moment == math.inf else moment - time.monotonic()):
                await self._changed.wait()

    async def _try(self, post: _Post) -> None:
        post.tries += 1
        result, error = await self._ask(post.notification.body)
        now = time.monotonic()
        self.tally.posts += 1
        self.tally.answers[result] += 1
        self._reached = result not in _CANNOT_CONNECT
        if result.isdigit() or result == "timeout":
            self.tally.latencies.add(now - post.due)
        if result == "200":
            self._acknowledged(post, now)
        else:
            self._failed(post, now, result, error)

    async def _ask(self, body: bytes) -> tuple[str, Exception | None]:
        """The status of the answer, or the kind of failure if there is none."""
        headers = {}
        if self._plan.secret:
            headers[SIGNATURE] = f"sha256={hmac.new(self._plan.secret, body, 'sha256').hexdigest()}"
        try:
            async with self._session.post(self._plan.url, data=body, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                return str(answer.status), None
        except tuple(REFUSALS) as error:
            return next(name for kind, name in REFUSALS.items() if isinstance(error, kind)), error

    def _acknowledged(self, post: _Post, now: float) -> None:
        tally = self.tally
        if post.duplicate:
            tally.duplicates += 1
            return
        tally.acknowledged += 1
        tally.first += post.tries == 1
        if self._observer:
            self._observer.acknowledged(post.notification)
        if self._random.random() < self._plan.duplicates:
            self._again(_Post(post.notification, due=0.0, begun=now, duplicate=True), now, failures=1)

    def _failed(self, post: _Post, now: float, result: str, error: Exception | None) -> None:
        tally = self.tally
        if not post.duplicate:
            tally.retried += post.tries == 1
        if post.tries >= HOPELESS.get(result, math.inf) and tally.answers.keys() <= HOPELESS.keys():
            cause = why(error, self._plan.url) if error else result
            self._hopeless = Unreachable(f"{_REMEDIES[result]} ({cause}, {tally.answers[result]:,} times)")
        elif result == UNAUTHORIZED and not tally.acknowledged:
            self._hopeless = Unauthorized(_to_be_let_in(self._plan))
        if not self._again(post, now, failures=post.tries) and not post.duplicate:
            tally.given_up += 1

    def _again(self, post: _Post, now: float, failures: int) -> bool:
        """Post it later; False when the sender would have given up by then."""
        delays, speed_up = DELAYS[self._plan.form], self._plan.speed_up
        post.due = now + delays.wait(failures) / speed_up
        if post.due > post.begun + delays.give_up / speed_up:
            return False
        heapq.heappush(self._retries, (post.due, next(self._order), post))
        self.tally.waiting += 1
        return True


def _to_be_let_in(plan: Plan) -> str:
    """What to do about a 401: of a wrong signature, of none, or of a missing password or certificate."""
    if plan.secret:
        said = "the signature may be of another secret: --sign takes the first one of WA_APP_SECRET, which must be the"
        return f"{said} receiver's"
    return "add --sign, which takes the secret from WA_APP_SECRET; for Basic auth give http://USER:PASSWORD@… in --to"
