"""The load: connections, pace, retries, duplicates, against a receiver that answers by script."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from workers.simulator.bodies import Content, Notification
from workers.simulator.counters import Tally
from workers.simulator.delays import DELAYS
from workers.simulator.sender import HOPELESS, SIGNATURE, Plan, Unauthorized, Unreachable, send

Answer = int | str
Script = Callable[[int, int], Answer | Awaitable[Answer]]
"""What to answer the n-th request, the k-th with this body (both from 0): a status, `hang` or `close`."""


class Receiver:
    """Answers by script, and remembers what came when."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.url = ""
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.headers: list[Any] = []
        self.under_way = self.most_under_way = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        n, again = len(self.bodies), self.bodies.count(body)
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.headers.append(request.headers)
        answer = self.script(n, again)
        if not isinstance(answer, int | str):
            answer = await answer
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "close":
            assert request.transport is not None
            request.transport.close()
        status = answer if isinstance(answer, int) else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


@asynccontextmanager
async def receiving(script: Script, port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver(script)
    runner = web.ServerRunner(web.Server(receiver, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def run(script: Script, count: int = 1, content: Content | None = None, **plan: Any) -> tuple[Tally, Receiver]:
    """Send so many notifications to a receiver with that script."""

    async def go() -> tuple[Tally, Receiver]:
        async with receiving(script) as receiver:
            tally = await send(
                Plan(**{"url": receiver.url, "count": count} | plan), (content or Content()).notifications()
            )
            return tally, receiver

    return asyncio.run(go())


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true, 20 s at most."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)


def test_everything_arrives_once() -> None:
    """When all is well each notification is posted once, and acknowledged at the first try."""
    tally, receiver = run(lambda n, again: 200, 300)
    assert (tally.sent, tally.first, tally.acknowledged, tally.posts) == (300,) * 4
    assert (tally.retried, tally.given_up, tally.duplicates, tally.unacknowledged, tally.waiting) == (0,) * 5
    assert tally.answers == {"200": 300}
    assert tally.latencies.count == 300
    assert len(set(receiver.bodies)) == 300
    assert {headers["Content-Type"] for headers in receiver.headers} == {"application/json"}


@pytest.mark.parametrize("form", ["cloud", "onprem"])
@pytest.mark.parametrize(
    ("failure", "reason"), [(503, "503"), (201, "201"), (302, "302"), ("close", "broken"), ("hang", "timeout")]
)
def test_retries(form: Any, failure: Answer, reason: str) -> None:
    """Anything but 200, a closed connection or no answer in time is tried again, later each time, unchanged."""
    speed_up = 100
    tally, receiver = run(
        lambda n, again: failure if again < 3 else 200,
        form=form,
        speed_up=speed_up,
        timeout=0.1 if reason == "timeout" else 10,
    )
    assert tally.answers == {reason: 3, "200": 1}
    assert (tally.sent, tally.first, tally.retried, tally.acknowledged, tally.given_up) == (1, 0, 1, 1, 0)
    assert len(set(receiver.bodies)) == 1
    for gap, failures in zip(receiver.gaps(), (1, 2, 3), strict=True):
        assert gap >= DELAYS[form].wait(failures) / speed_up - 0.002


@pytest.mark.parametrize("form", ["cloud", "onprem"])
def test_given_up(form: Any) -> None:
    """A notification that is never acknowledged is given up when the sender's patience ends."""
    tally, receiver = run(lambda n, again: 503, 5, form=form, speed_up=DELAYS[form].give_up / 0.5)
    assert (tally.sent, tally.given_up, tally.acknowledged, tally.unacknowledged, tally.waiting) == (5, 5, 0, 0, 0)
    assert tally.answers == {"503": len(receiver.bodies)}
    assert min(Counter(receiver.bodies).values()) > 3
    assert max(receiver.times) - min(receiver.times) < 5


def test_others_go_on_meanwhile() -> None:
    """A notification that fails holds up no other one."""
    came: set[int] = set()

    def answer(n: int, again: int) -> int:
        came.add(n)
        return 503 if n == 0 and len(came) < 100 else 200

    tally, _ = run(answer, 100, connections=6, speed_up=100)
    assert (tally.acknowledged, tally.retried) == (100, 1)


def test_duplicates() -> None:
    """Duplicates come after the acknowledgement, byte for byte; their share is as told."""
    tally, receiver = run(lambda n, again: 200, 400, duplicates=0.25, speed_up=100)
    copies = Counter(receiver.bodies)
    assert set(copies.values()) == {1, 2}
    assert tally.duplicates == sum(times == 2 for times in copies.values())
    assert 60 < tally.duplicates < 140
    assert (tally.acknowledged, tally.posts, tally.retried) == (400, 400 + tally.duplicates, 0)


def test_duplicates_are_retried() -> None:
    """A duplicate that is refused is tried again, and counts neither as retried nor as given up."""
    tally, receiver = run(lambda n, again: 503 if again == 1 else 200, 20, duplicates=1.0, speed_up=100)
    assert set(Counter(receiver.bodies).values()) == {3}
    assert (tally.acknowledged, tally.first, tally.duplicates, tally.retried, tally.given_up) == (20, 20, 20, 0, 0)


def test_signature() -> None:
    """With a secret each body is signed, as in the example of the Cloud API's documentation of signatures."""
    body = b'{"object":"whatsapp_business_account","entry":[]}'

    async def go() -> Receiver:
        async with receiving(lambda n, again: 200) as receiver:
            await send(Plan(receiver.url, secret=b"test_app_secret"), [Notification(body)])
            await send(Plan(receiver.url), [Notification(body)])
            await send(Plan(receiver.url, count=20, secret=b"s"), Content().notifications())
        return receiver

    receiver = asyncio.run(go())
    first, unsigned, *others = (headers.get(SIGNATURE) for headers in receiver.headers)
    assert first == "sha256=dec6a680679a968e7e0319355b23599cbfc54502c0784668e9618baa0c633756"
    assert unsigned is None
    assert others == ["sha256=" + hmac.new(b"s", one, sha256).hexdigest() for one in receiver.bodies[2:]]


def test_basic_auth() -> None:
    """User and password of the URL are sent as Basic auth."""

    async def go() -> Any:
        async with receiving(lambda n, again: 200) as receiver:
            url = receiver.url.replace("//", "//ada:s3cret@")
            await send(Plan(url, count=1), Content().notifications())
            return receiver.headers[0]["Authorization"]

    assert asyncio.run(go()) == aiohttp.encode_basic_auth("ada", "s3cret")


@pytest.mark.parametrize(("connections", "rate"), [(1, None), (6, None), (24, None), (12, 5000.0)])
def test_connections(connections: int, rate: float | None) -> None:
    """So many requests are under way at a time, and never more, retries and duplicates included."""

    # The first ones are answered when as many are there as may be; the others take a moment.
    together = asyncio.Event()

    async def script(n: int, again: int) -> Answer:
        if n + 1 >= connections:
            together.set()
        async with asyncio.timeout(20):
            await together.wait()
        await asyncio.sleep(0.003)
        return 503 if n % 7 == 0 else 200

    tally, receiver = run(script, 60, connections=connections, rate=rate, duplicates=0.2, speed_up=1000)
    assert tally.acknowledged == 60
    assert receiver.most_under_way == connections


def test_pace() -> None:
    """With a rate notifications come at an even pace, none early, all in the end."""
    tally, receiver = run(lambda n, again: 200, 60, rate=200.0)
    start = receiver.times[0]
    assert tally.sent == tally.acknowledged == 60
    assert all(moment - start >= n / 200 - 0.1 for n, moment in enumerate(receiver.times))
    assert tally.seconds >= 59 / 200


def test_stall_is_seen() -> None:
    """With a rate the time of an answer counts from when the notification was due: a stall shows in the median."""

    async def stalled(until_: float) -> int:
        await asyncio.sleep(until_ - time.monotonic())
        return 200

    def go(rate: float | None) -> Tally:
        end = time.monotonic() + 0.6
        return run(lambda n, again: stalled(end) if n < 2 else 200, 100, connections=2, rate=rate)[0]

    paced, closed = go(200.0), go(None)
    median, other = paced.latencies.quantile(0.5), closed.latencies.quantile(0.5)
    assert median is not None
    assert other is not None
    assert median > 0.15
    assert other < median / 2


def test_seconds() -> None:
    """The load ends after the seconds that it was given, what comes first; what failed is still retried."""
    tally, receiver = run(lambda n, again: 503 if n == 0 else 200, count=None, seconds=0.3, rate=100.0, speed_up=2)  # type: ignore[arg-type]
    assert 10 <= tally.sent <= 30
    assert tally.acknowledged == tally.sent
    assert receiver.bodies[-1] == receiver.bodies[0]


@pytest.mark.parametrize("rate", [None, 500.0])
def test_nothing_there(free_port: Callable[[], int], rate: float | None) -> None:
    """When nothing ever answers, it says why after a few tries: the cause once, with a count."""

    async def go() -> Tally:
        port = free_port()
        tally, plan = Tally(), Plan(f"http://127.0.0.1:{port}/", rate=rate, speed_up=50)
        with pytest.raises(Unreachable, match="check host and port") as caught:
            await send(plan, Content().notifications(), tally=tally)
        assert re.search(rf"\(connection refused: 127.0.0.1:{port}, \d+ times\)$", str(caught.value))
        return tally

    tally = asyncio.run(go())
    assert tally.acknowledged == 0
    if rate is None:
        assert tally.sent == 6  # it does not pile up what cannot be posted
        assert tally.posts <= 6 * HOPELESS["refused"]


def test_never_an_answer() -> None:
    """When every connection is closed it says so after some tries; not when there was an answer before."""
    with pytest.raises(Unreachable, match="closed without an answer"):
        run(lambda n, again: "close", 3, speed_up=2000)
    tally, _ = run(lambda n, again: 503 if n == 0 else "close" if again < 12 else 200, 3, speed_up=100_000)
    assert tally.acknowledged == 3


@pytest.mark.parametrize(("secret", "says"), [(None, "add --sign"), (b"s", "another secret")])
def test_not_let_in(secret: bytes | None, says: str) -> None:
    """A 401 ends it at once with what to do, unless something was acknowledged before."""
    with pytest.raises(Unauthorized, match=says):
        run(lambda n, again: 401, 1000, secret=secret)
    tally, _ = run(lambda n, again: 401 if n == 1 else 200, 3, connections=1, speed_up=1000, secret=secret)
    assert (tally.acknowledged, tally.retried) == (3, 1)


def test_no_such_name() -> None:
    """A host name that does not exist is named as the reason."""
    plan = Plan("http://nowhere.invalid/", speed_up=100)
    with pytest.raises(Unreachable, match="name is not known"):
        asyncio.run(send(plan, Content().notifications()))


def test_receiver_comes_later(free_port: Callable[[], int]) -> None:
    """A receiver that starts in time gets everything; until then no more is begun than there are connections."""
    port = free_port()

    async def go() -> tuple[int, Tally]:
        tally, plan = Tally(), Plan(f"http://127.0.0.1:{port}/webhook", count=50, speed_up=4)
        sending = asyncio.create_task(send(plan, Content().notifications(), tally=tally))
        await until(lambda: tally.answers["refused"] >= 6)
        begun = tally.sent
        async with receiving(lambda n, again: 200, port):
            await sending
        return begun, tally

    begun, tally = asyncio.run(go())
    assert begun == 6
    assert (tally.sent, tally.acknowledged, tally.retried) == (50, 50, 6)


def test_receiver_goes_and_comes(free_port: Callable[[], int]) -> None:
    """A receiver that is restarted in the middle of a load gets everything in the end, however long it was away."""
    port = free_port()

    async def go() -> Tally:
        tally, plan = Tally(), Plan(f"http://127.0.0.1:{port}/webhook", count=2000, form="onprem", speed_up=500)
        async with receiving(lambda n, again: 200, port):
            sending = asyncio.create_task(send(plan, Content("onprem").notifications(), tally=tally))
            await until(lambda: tally.acknowledged > 100)
        refused = tally.answers["refused"]
        await until(lambda: tally.answers["refused"] >= refused + 6 * (HOPELESS["refused"] + 1))
        async with receiving(lambda n, again: 200, port):
            return await sending

    tally = asyncio.run(go())
    assert (tally.sent, tally.acknowledged) == (2000, 2000)
    assert 0 < tally.retried <= 12


@pytest.mark.parametrize("answer", ["hang", 503])
def test_stop(answer: Answer) -> None:
    """A stop ends it soon, whatever is under way, and what was not acknowledged is counted."""

    async def go() -> Tally:
        tally, stop = Tally(), asyncio.Event()
        async with receiving(lambda n, again: 200 if n < 20 else answer) as receiver:
            plan = Plan(receiver.url, count=100, timeout=600.0)
            sending = asyncio.create_task(send(plan, Content().notifications(), tally=tally, stop=stop))
            await until(lambda: len(receiver.bodies) >= 26)
            stop.set()
            async with asyncio.timeout(20):
                return await sending

    tally = asyncio.run(go())
    assert tally.stopped
    assert tally.acknowledged == 20
    assert tally.unacknowledged == tally.sent - 20 >= 6


def test_observer() -> None:
    """Who asks is told of each notification when it is first posted and when it is acknowledged, in this order."""
    told: list[tuple[str, Notification]] = []

    class Listening:
        def begun(self, notification: Notification) -> None:
            told.append(("begun", notification))

        def acknowledged(self, notification: Notification) -> None:
            told.append(("acknowledged", notification))

    async def go() -> None:
        async with receiving(lambda n, again: 503 if again == 0 and n % 2 else 200) as receiver:
            plan = Plan(receiver.url, duplicates=1.0, speed_up=100)
            await send(plan, [Notification(b"%d" % n) for n in range(10)], observer=Listening())

    asyncio.run(go())
    assert Counter(told) == {
        (what, Notification(b"%d" % n)): 1 for what in ("begun", "acknowledged") for n in range(10)
    }
    for n in range(10):
        assert told.index(("begun", Notification(b"%d" % n))) < told.index(("acknowledged", Notification(b"%d" % n)))
