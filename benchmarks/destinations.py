"""`python -m benchmarks.destinations WHAT [SECONDS]`: real receivers, workers and HTTP destinations.

* `limit`: a destination that answers 429 with `Retry-After: 2` above 100/s, under twice that load.
* `away`: two destinations under load, one of which is killed for so many seconds.
* `kills`: two destinations under load, while workers are killed ten times.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from redis import Redis

from benchmarks import machine
from benchmarks.machine import BenchError
from benchmarks.processes import children
from benchmarks.programs import folder, free_port, listens, running, valkey, wait_until
from ingest.store import keys
from ingest.store.queues import LANES

_CONTACTS = 200
_SECRET = "as in the file"  # noqa: S105
_BODY = (
    '{{"object":"whatsapp_business_account","entry":[{{"id":"9","changes":[{{"field":"messages","value":{{'
    '"messaging_product":"whatsapp","metadata":{{"display_phone_number":"15550009","phone_number_id":"7"}},'
    '"contacts":[{{"profile":{{"name":"Ada"}},"wa_id":"1555{contact:04}"}}],"messages":[{{"from":"1555{contact:04}",'
    '"id":"{contact}-{number}","timestamp":"1760000000","type":"text","text":{{"body":"Hello"}}}}]}}}}]}}]}}'
)


class Post(NamedTuple):
    at: float
    status: int
    attempt: int
    id: str


class Destination:
    """Its server, which may be killed and started again, and what it was posted."""

    def __init__(self, name: str, posts: Path, per_second: int = 0, answer_ms: float = 5.0) -> None:
        self.name = name
        self._reserved = socket.socket()  # so that the port is nobody else's while the server is down
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.port = free_port()
        self._reserved.bind(("127.0.0.1", self.port))
        self._posts = posts
        self._own = {"BENCH_PORT": self.port, "BENCH_POSTS": posts, "BENCH_PER_SECOND": per_second}
        self._own |= {"BENCH_ANSWER_MS": answer_ms}
        self._running = ExitStack()
        posts.touch()

    def start(self) -> None:
        call = [sys.executable, "-m", "benchmarks.destination_server"]
        program = self._running.enter_context(running(self.name, call, machine.BACK, **self._own))
        wait_until(lambda: listens(self.port), 30.0, f"destination {self.name}", program)

    def stop(self) -> None:
        self._running.close()

    def close(self) -> None:
        self.stop()
        self._reserved.close()

    def posts(self) -> list[Post]:
        """All that it was posted, in the order in which it came."""
        lines = self._posts.read_text().splitlines()
        return [Post(float(at), int(status), int(n), id) for at, status, n, id in map(str.split, lines)]

    def toml(self, more: str) -> str:
        url = f"http://127.0.0.1:{self.port}/webhook"
        return f'[[destination]]\nname = "{self.name}"\nurl = "{url}"\nsecret = "{_SECRET}"\n{more}\n'


class Pipeline(NamedTuple):
    redis: Redis
    url: str
    """Where to post notifications."""
    workers: Callable[[], list[int]]
    """The processes of the workers, which are started again when they end."""

    def is_empty(self) -> bool:
        return not self.redis.exists(keys.LEDGER)

    def dead(self) -> dict[str, int]:
        """The dead letters, by what they say."""
        entries: list[Any] = [self.redis.xrange(keys.dead_key(lane)) for lane in LANES]
        letters = [letter for some in entries for _, letter in some]
        return dict(Counter(f"{letter[b'reason'].decode()}: {letter[b'detail'].decode()}" for letter in letters))


@contextmanager
def pipeline(destinations: Iterable[Destination], processes: int, more: str = "") -> Iterator[Pipeline]:
    """A receiver and workers, with a store of their own, for these destinations."""
    port, admin = free_port(), free_port()
    with valkey("everysec") as store, folder() as own, ExitStack() as stack:
        file = own / "destinations.toml"
        file.write_text("\n".join(one.toml(more) for one in destinations))
        env = {"WA_REDIS_URL": store.url, "WA_SPOOL_DIR": own / "spool", "WA_DESTINATIONS": file}
        env |= {"WA_MAX_ATTEMPTS": "1", "WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
        wa_ingest = [sys.executable, "-m", "workers.cli"]
        receiver = stack.enter_context(running("receiver", [*wa_ingest, "serve"], machine.BACK, **env))
        call = [*wa_ingest, "work", "--processes", str(processes)]
        workers = stack.enter_context(running("workers", call, machine.FRONT, **env))
        alive: Any = lambda: store.redis.zcard(keys.ALIVE) >= processes  # noqa: E731
        wait_until(lambda: alive() and listens(port), 60.0, "the start", receiver, workers)
        parent = workers.process.pid
        yield Pipeline(store.redis, f"http://127.0.0.1:{port}/webhook", lambda: list(children(parent)))


class Load:
    """Posts messages at a rate, of all contacts in turn, until it is told to stop."""

    def __init__(self, url: str, rate: float) -> None:
        self._url, self._rate = url, rate
        self.posted: dict[str, float] = {}
        self._over = asyncio.Event()

    async def run(self) -> None:
        began = time.time()
        async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
            for number in itertools.count():
                pause = began + number / self._rate - time.time()
                if pause > 0:
                    await asyncio.sleep(pause)
                if self._over.is_set():
                    return
                group.create_task(self._post(client, number % _CONTACTS, number // _CONTACTS))

    async def _post(self, client: aiohttp.ClientSession, contact: int, number: int) -> None:
        self.posted[f"{contact}-{number}"] = time.time()
        async with client.post(self._url, data=_BODY.format(contact=contact, number=number)) as answer:
            if answer.status != 200:
                raise BenchError(f"the receiver answered {answer.status}")

    def stop(self) -> None:
        self._over.set()


async def under_load(load: Load, act: Callable[[], Any]) -> None:
    """Post until `act` has returned; it runs in another thread."""
    posting = asyncio.create_task(load.run())
    await asyncio.to_thread(act)
    load.stop()
    await posting


def limit(seconds: float) -> None:
    with folder() as own, ExitStack() as stack:
        slow = Destination("slow", own / "slow", per_second=100)
        stack.callback(slow.close)
        slow.start()
        with pipeline([slow], 1) as made:
            load = Load(made.url, 200)
            asyncio.run(under_load(load, lambda: time.sleep(seconds)))
            posts = slow.posts()
            dead = made.dead()
    taken = [post for post in posts if post.status == 200]
    refused = [post for post in posts if post.status == 429]
    span = posts[-1].at - posts[0].at
    first = [post for post in refused if post.at - refused[0].at < 1.0]
    print(
        f"{span:.0f} s: {len(taken) / span:.1f}/s taken, {len(refused)} times 429 ({len(first)} of them at the first)"
    )
    each = Counter(int(post.at) for post in taken)
    print("each second " + " ".join(str(each[n]) for n in range(int(posts[0].at), int(posts[-1].at) + 1)))
    print(
        f"{len(refused) / len(taken):.2%} of what was taken; dead letters: {dead}; {out_of_order(taken)} out of order"
    )


def away(seconds: float, rate: float, strict: bool) -> None:
    before = 20.0
    with folder() as own, ExitStack() as stack:
        here, gone = Destination("here", own / "here"), Destination("gone", own / "gone")
        for one in (here, gone):
            stack.callback(one.close)
            one.start()
        with pipeline([here, gone], 1, "strict_order = true" if strict else "") as made:
            load = Load(made.url, rate)
            moments: list[float] = []

            def act() -> None:
                time.sleep(before)
                moments.append(time.time())
                gone.stop()
                time.sleep(seconds)
                gone.start()
                moments.append(time.time())
                time.sleep(before)
                moments.append(time.time())

            asyncio.run(under_load(load, act))
            wait_until(made.is_empty, 600.0, "the end")
            ended, dead = time.time(), made.dead()
        left, back, last = moments
        phases = {"before": (left - before + 5, left), "away": (left, back), "after": (back, last)}
        for name, (start, end) in phases.items():
            print(f"{name}: " + ", ".join(_during(one, load, start, end) for one in (here, gone)))
        for one in (gone, here):
            _returned(one, back, rate)
        for one in (here, gone):
            check(one, load.posted)
        print(f"all was there {ended - back:.1f} s after the return; dead letters: {dead}")


def _during(one: Destination, load: Load, start: float, end: float) -> str:
    taken = [post for post in one.posts() if start <= post.at < end and post.status == 200]
    waits = sorted(post.at - load.posted[post.id] for post in taken)
    p50, p99 = (waits[int(len(waits) * part)] * 1000 for part in (0.5, 0.99)) if waits else (0.0, 0.0)
    return f"{one.name} {len(taken) / (end - start):.0f}/s (p50 {p50:.0f} ms, p99 {p99:.0f} ms)"


def _returned(one: Destination, back: float, rate: float) -> None:
    """How fast it was posted to in each of the seconds after the return of the one that was away."""
    per_second = Counter(int(post.at - back) for post in one.posts() if post.at >= back)
    first = min(post.at for post in one.posts() if post.at >= back)
    rates = ", ".join(f"{per_second[n]:,}" for n in range(20))
    print(
        f"{one.name}: the first post {first - back:.2f} s after the return; each second {rates} (come in: {rate:.0f})"
    )


def kills(_: float) -> None:
    with folder() as own, ExitStack() as stack:
        both = [Destination("one", own / "one"), Destination("other", own / "other", answer_ms=20)]
        for one in both:
            stack.callback(one.close)
            one.start()
        with pipeline(both, 3) as made:
            load = Load(made.url, 300)
            killed: list[float] = []

            def act() -> None:
                time.sleep(3.0)
                for n in range(10):
                    victims = made.workers()
                    os.kill(victims[n % len(victims)], signal.SIGKILL)
                    killed.append(time.time())
                    time.sleep(4.0)  # a body that was in the hand of three killed workers would be poison

            asyncio.run(under_load(load, act))
            wait_until(made.is_empty, 120.0, "the end")
            print(f"{len(killed)} kills, {len(load.posted)} events, dead letters: {made.dead()}")
        for one in both:
            check(one, load.posted)
            away = [min(abs(kill - at) for kill in killed) for at in repeated(one.posts())]
            print(f"what was repeated came {max(away, default=0.0):.2f} s from a kill at most, the first time")


def repeated(posts: list[Post]) -> list[float]:
    """When each post came that came again."""
    last: dict[str, float] = {}
    found = []
    for post in posts:
        if post.id in last:
            found.append(last[post.id])
        last[post.id] = post.at
    return found


def check(one: Destination, posted: Iterable[str]) -> None:
    """Say what is missing, was repeated or out of order, and how often it was tried."""
    posts = one.posts()
    times = Counter(post.id for post in posts)
    missing = set(posted) - set(times)
    print(
        f"{one.name}: {len(times)} events, {len(missing)} missing, {times.total() - len(times)} repeated, "
        f"{out_of_order(posts)} out of order, attempts {dict(Counter(post.attempt for post in posts))}"
    )


def out_of_order(posts: list[Post]) -> int:
    """Events whose first post came after that of a later one of their contact."""
    highest: dict[str, int] = defaultdict(lambda: -1)
    found = 0
    for id in dict.fromkeys(post.id for post in posts):
        contact, _, number = id.partition("-")
        found += int(number) < highest[contact]
        highest[contact] = max(highest[contact], int(number))
    return found


def main() -> None:
    what, seconds, rate, *strict = [*sys.argv[1:], *["60", "300"][len(sys.argv) - 2 :]]
    if what == "away":
        away(float(seconds), float(rate), bool(strict))
    else:
        {"limit": limit, "kills": kills}[what](float(seconds))


if __name__ == "__main__":
    main()
