from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from workers import Discard, Handlers, Reject, RetryIn
from workers.dispatch.dispatcher import Dispatcher, Outcome
from workers.dispatch.rate_limits import RateLimits
from workers.events import Event
from workers.events.parsing import parse


class Run:
    """Runs bodies through handlers and keeps what became of them."""

    def __init__(
        self, handlers: Handlers, concurrency: int = 50, timeout: float = 30.0, rate_limits: RateLimits | None = None
    ) -> None:
        self.stop = threading.Event()
        self.ends: list[tuple[str | None, Outcome]] = []
        self.ticks = 0
        self.dispatcher = Dispatcher(handlers, concurrency, timeout, self.stop.is_set, rate_limits)

    def __call__(self, *bodies: bytes) -> list[str]:
        events = [(n, e) for n, body in enumerate(bodies) for e in parse(body, 0) if isinstance(e, Event)]
        self.dispatcher.run(events, self)
        return [outcome.name for _, outcome in self.ends]

    def admit(self, event: Event) -> Outcome | None:
        return None

    def put_off(self) -> None:
        pass

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        self.ends.append((event.id, outcome))

    def tick(self, now: float) -> None:
        self.ticks += 1

    def halted(self) -> bool:
        return False


def _raise(error: BaseException) -> Callable[[Any], None]:
    def handler(_: object) -> None:
        raise error

    return handler


def _async_raise(error: BaseException) -> Callable[[Any], Any]:
    async def handler(_: object) -> None:
        raise error

    return handler


@pytest.mark.parametrize("make", [_raise, _async_raise], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("error", "name", "detail", "delay"),
    [
        (Discard("why"), "discarded", "", None),
        (Reject("bad number"), "rejected", "bad number", None),
        (RetryIn(7), "failed", "asked for a retry in 7 s", 7.0),
        (ValueError("4915550001"), "failed", "ValueError: 4915550001", None),
        (SystemExit(3), "failed", "SystemExit: 3", None),
        (asyncio.CancelledError(), "failed", "CancelledError: ", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_exception_means(
    make: Callable[[BaseException], Any],
    error: BaseException,
    name: str,
    detail: str,
    delay: float | None,
    message: Callable[..., bytes],
) -> None:
    """Discard drops, Reject ends, RetryIn sets the delay, any other exception fails; details stay out of `error`."""
    handlers = Handlers()
    handlers.message()(make(error))
    run = Run(handlers)
    assert run(message()) == [name]
    outcome = run.ends[0][1]
    assert outcome.detail.startswith(detail)
    assert outcome.delay == delay
    assert "4915550001" not in outcome.error + outcome.handler


def test_nobody_wants_it(message: Callable[..., bytes]) -> None:
    """An event without a handler is unhandled, not handled."""
    assert Run(Handlers())(message()) == ["unhandled"]


def test_first_failure_ends_the_try(message: Callable[..., bytes]) -> None:
    """After a handler raised, the later ones are not called for this try."""
    handlers, called = Handlers(), []
    handlers.message()(_raise(ValueError()))
    handlers.message()(called.append)
    assert Run(handlers)(message()) == ["failed"]
    assert called == []


@pytest.mark.parametrize("swallow", [False, True], ids=["", "swallowing"])
def test_sync_time_out(message: Callable[..., bytes], swallow: bool) -> None:
    """A sync handler that waits in a system call is interrupted, also one that swallows the first time-out."""
    handlers = Handlers()

    @handlers.message()
    def slow(_: object) -> None:
        try:
            time.sleep(60)
        except TimeoutError:
            if not swallow:
                raise
        time.sleep(60)

    run = Run(handlers, timeout=0.1)
    began = time.monotonic()
    assert run(message("a"), message("b")) == ["failed", "failed"]
    assert time.monotonic() - began < 30
    assert "HandlerTimeout: not done after 0.1 s" in run.ends[0][1].detail


def test_each_event_has_its_whole_time(status: Callable[..., bytes]) -> None:
    """The time-out counts from each event's own beginning, though one timer serves many events."""
    handlers = Handlers()
    handlers.status()(lambda event: time.sleep(float(event.id)))
    run = Run(handlers, timeout=0.5)
    assert run(*[status(id) for id in ("0.3", "0.3", "0.3", "30", "0.3")]) == [*["handled"] * 3, "failed", "handled"]


def test_async_time_out(message: Callable[..., bytes]) -> None:
    """An async handler is cancelled when its time is over, and the others go on."""
    handlers = Handlers()

    @handlers.message()
    async def slow(event: Any) -> None:
        if event.id == "a":
            await asyncio.sleep(60)

    run = Run(handlers, timeout=0.1)
    run(message("a", sender="1"), message("b", sender="2"))
    assert {id: outcome.name for id, outcome in run.ends} == {"a": "failed", "b": "handled"}


def test_concurrency_and_its_limit(message: Callable[..., bytes]) -> None:
    """As many async handlers run at a time as `concurrency` says, no more and no fewer."""
    handlers = Handlers()
    running, most = 0, 0

    @handlers.message()
    async def handle(_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    names = Run(handlers, concurrency=7)(*[message(str(n), sender=str(n)) for n in range(100)])
    assert names == ["handled"] * 100
    assert most == 7


def test_one_contact_one_after_another(message: Callable[..., bytes]) -> None:
    """One contact's messages never overlap and keep their order, whatever their handlers' duration."""
    handlers = Handlers()
    running: set[str] = set()
    order: dict[str, list[int]] = {}

    @handlers.message()
    async def handle(event: Any) -> None:
        assert event.sender not in running
        running.add(event.sender)
        await asyncio.sleep(0.001 * (int(event.id) * 7 % 5))
        running.remove(event.sender)
        order.setdefault(event.sender, []).append(int(event.id))

    names = Run(handlers)(*[message(str(n), sender=str(n % 9)) for n in range(200)])
    assert set(names) == {"handled"}
    assert all(ids == sorted(ids) for ids in order.values())


def test_loop_lives_on(message: Callable[..., bytes]) -> None:
    """The handlers find the same running loop in every batch, so that their connection pools live on."""
    handlers, loops = Handlers(), []

    @handlers.message()
    async def handle(_: object) -> None:
        loops.append(asyncio.get_running_loop())

    run = Run(handlers)
    run(message("a"))
    run(message("b"))
    assert loops[0] is loops[1]
    run.dispatcher.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_stop_between_events(message: Callable[..., bytes], is_async: bool) -> None:
    """When the worker is told to stop, no event is begun any more; what has begun is finished."""
    handlers = Handlers()
    run: Run

    def sync(event: Any) -> None:
        if event.id == "2":
            run.stop.set()

    async def coroutine(event: Any) -> None:
        sync(event)

    handlers.message()(coroutine if is_async else sync)
    run = Run(handlers, concurrency=1)
    run(*[message(str(n), sender="1") for n in range(10)])
    assert [id for id, _ in run.ends] == ["0", "1", "2"]


@pytest.mark.parametrize("is_async", [False, True])
def test_stop_breaks_a_slow_handler_off(
    message: Callable[..., bytes], is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that does not end in time at a stop is broken off, and its event counts as not begun."""
    monkeypatch.setattr("workers.dispatch.dispatcher.STOP_SECONDS", 0.1)
    handlers = Handlers()
    started = threading.Event()

    def sync(_: object) -> None:
        run.stop.set()
        run.dispatcher.stop_soon()
        started.set()
        time.sleep(60)

    async def coroutine(_: object) -> None:
        run.stop.set()
        started.set()
        await asyncio.sleep(60)

    handlers.message()(coroutine if is_async else sync)
    run = Run(handlers)
    assert run(message()) == []
    assert started.is_set()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failing_tick_ends_the_run(message: Callable[..., bytes], is_async: bool) -> None:
    """When the batch is lost, nothing more is begun and what runs is cancelled."""
    handlers = Handlers()
    begun: list[str] = []

    def sync(event: Any) -> None:
        begun.append(event.id)

    async def coroutine(event: Any) -> None:
        begun.append(event.id)

    handlers.message()(coroutine if is_async else sync)
    run = Run(handlers, concurrency=1)

    class Gone(Exception):
        pass

    def tick(now: float) -> None:
        raise Gone

    run.tick = tick  # type: ignore[method-assign]
    with pytest.raises(Gone):
        run(*[message(str(n)) for n in range(10)])
    assert begun == ["0"]


def test_ticks_come_while_handlers_wait(message: Callable[..., bytes]) -> None:
    """The batch can settle what is done while a slow async handler is still waiting."""
    handlers = Handlers()

    @handlers.message()
    async def slow(_: object) -> None:
        while run.ticks < 3:  # noqa: ASYNC110 - `ticks` is what is tested
            await asyncio.sleep(0.01)

    run = Run(handlers)
    assert run(message()) == ["handled"]


def test_concurrency_of_a_handler(message: Callable[..., bytes], redis: Redis) -> None:
    """No more calls of a handler are in flight than it allows; what others handle does not wait behind its events."""
    handlers, ends = Handlers(), []
    running, most = 0, 0

    @handlers.message("text", concurrency=2)
    async def slow(event: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        ends.append("slow")

    @handlers.message("image")
    async def fast(_: object) -> None:
        ends.append("fast")

    bodies = [message(str(n), sender=str(n), type="image" if n % 2 else "text") for n in range(40)]
    assert Run(handlers, concurrency=4, rate_limits=RateLimits(PipelinedConnection(redis)))(*bodies) == ["handled"] * 40
    assert most == 2
    assert ends[20:] == ["slow"] * 20 or ends.index("slow", 18) < 24  # all fast ones went by the first slow ones


@pytest.mark.parametrize("is_async", [False, True])
def test_rate_of_a_handler(message: Callable[..., bytes], redis: Redis, is_async: bool) -> None:
    """Calls come at the handler's rate, in the order of each contact; while they wait it ticks."""
    handlers, at = Handlers(), []

    def note(event: Any) -> None:
        at.append((event.id, time.monotonic()))

    async def note_async(event: Any) -> None:
        note(event)

    handlers.message(rate="20/s")(note_async if is_async else note)
    run = Run(handlers, timeout=0.1, rate_limits=RateLimits(PipelinedConnection(redis)))
    assert run(*[message(f"{n:02}", sender="1") for n in range(20)]) == ["handled"] * 20
    assert [id for id, _ in at] == [f"{n:02}" for n in range(20)]
    assert at[-1][1] - at[0][1] > 0.6
    assert run.ticks > 20


def test_all_turns_before_the_first_call(message: Callable[..., bytes], redis: Redis) -> None:
    """An event of several handlers is begun when each may be called; none is called twice for it."""
    handlers, called = Handlers(), []
    handlers.message(rate="1000/s")(lambda event: called.append(f"a{event.id}"))
    handlers.message(rate="5/s", concurrency=1)(lambda event: called.append(f"b{event.id}"))
    began = time.monotonic()
    assert (
        Run(handlers, rate_limits=RateLimits(PipelinedConnection(redis)))(message("1"), message("2"), message("3"))
        == ["handled"] * 3
    )
    assert called == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("why", ["stop", "halted", "redis"])
def test_what_ends_the_wait_for_a_turn(
    message: Callable[..., bytes], redis: Redis, is_async: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop or a halt leaves the event that waits as if it had not begun; that Redis is away ends the run."""
    handlers, called = Handlers(), []

    async def note_async(event: Any) -> None:
        called.append(event.id)

    handlers.message(rate="1/h")(note_async if is_async else lambda event: called.append(event.id))
    rate_limits = RateLimits(PipelinedConnection(redis))
    run = Run(handlers, rate_limits=rate_limits)

    def tick(now: float) -> None:
        run.ticks += 1
        if run.ticks == 3:
            if why == "stop":
                run.stop.set()
            elif why == "halted":
                monkeypatch.setattr(run, "halted", lambda: True)
            else:
                raise ConnectionError

    monkeypatch.setattr(run, "tick", tick)
    if why == "redis":
        with pytest.raises(ConnectionError):
            run(message("1"), message("2"))
    else:
        run(message("1"), message("2"))
    assert called == ["1"]
    assert [name for name, _ in run.ends] == ["1"]


def test_the_rate_is_that_of_all_processes(message: Callable[..., bytes], redis: Redis) -> None:
    """Two that share a Redis share the tokens; what one does not use the others get."""
    handlers, called = Handlers(), []
    handlers.message(rate="40/s")(lambda event: called.append(time.monotonic()))
    lines = [Redis(connection_pool=redis.connection_pool) for _ in range(2)]
    runs = [Run(handlers, rate_limits=RateLimits(PipelinedConnection(one))) for one in lines]
    began = time.monotonic()
    for n in range(15):
        for run in runs:
            run(message(f"{n}"))
    assert 0.3 < time.monotonic() - began < 8
    assert len(called) == 30
    assert len(redis.hkeys(keys.RATES)) == 2  # type: ignore[arg-type]
