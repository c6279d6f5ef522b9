from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from ingest.state.in_work import Standing, Turn
from ingest.store import keys
from ingest.store.pipelined import PipelinedConnection
from workers import Discard, Handlers, Reject, RetryIn, Snooze
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.outcomes import Outcome
from workers.dispatch.rate_limits import RateLimits
from workers.dispatch.ready import Source
from workers.engine import inside
from workers.engine.hand import Hands
from workers.events import Event
from workers.events.parsing import parse


class Run:
    """Runs bodies through handlers and keeps what became of them."""

    def __init__(
        self,
        handlers: Handlers,
        concurrency: int = 50,
        timeout: float = 30.0,
        rate_limits: RateLimits | None = None,
        threads: int = 1,
        **options: Any,
    ) -> None:
        self.stop = threading.Event()
        self.ends: list[tuple[str | None, Outcome]] = []
        self.done: frozenset[bytes] = frozenset()
        self.dispatcher = Dispatcher(
            handlers,
            concurrency,
            threads,
            timeout,
            rate_limits=rate_limits,
            stopping=self.stop.is_set,
            **options,
        )

    def __call__(self, *bodies: bytes) -> list[str]:
        events = [(n, e) for n, body in enumerate(bodies) for e in parse(body, 0) if isinstance(e, Event)]
        self.dispatcher.run(events, self)
        return [outcome.name for _, outcome in self.ends]

    def admit(self, event: Event) -> Outcome | None:
        return None

    def put_off(self, event: Event) -> None:
        pass

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        self.ends.append((event.id, outcome))

    def done_before(self, index: int) -> frozenset[bytes]:
        return self.done

    def order(self, event: Event) -> str | None:
        return None


@pytest.fixture(autouse=True)
def no_loop_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dispatchers of a test are closed after it."""
    made: list[Dispatcher] = []
    init = Dispatcher.__init__

    def noted(self: Dispatcher, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Dispatcher, "__init__", noted)
    yield
    for one in made:
        one.close()


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
        (Snooze(7), "snoozed", "asked to wait 7 s", 7.0),
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
    """Discard drops, Reject ends, RetryIn and Snooze set the delay, others fail; details stay out of `error`."""
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


def test_each_handler_ends_by_itself(message: Callable[..., bytes]) -> None:
    """After a handler raised, the later ones are called all the same; the next try calls only those that failed."""
    handlers, called = Handlers(), []
    handlers.message()(lambda event: called.append("first"))
    handlers.message()(_raise(ValueError()))
    handlers.message()(_async_raise(Discard("why")))
    handlers.message()(lambda event: called.append("last"))
    run = Run(handlers)
    assert run(message()) == ["failed"]
    assert called == ["first", "last"]
    run.done = frozenset(run.ends[0][1].done)
    assert len(run.done) == 3
    assert run(message()) == ["failed", "failed"]
    assert called == ["first", "last"]


@pytest.mark.parametrize(
    ("raised", "name", "delay", "at_least"),
    [
        ([None, Discard("a")], "discarded", None, 0),
        ([None, Reject("a")], "rejected", None, 0),
        ([Reject("a"), ValueError()], "failed", None, 0),
        ([RetryIn(7), RetryIn(3)], "failed", 3, 0),
        ([RetryIn(7), ValueError()], "failed", None, 0),
        ([None, Snooze(7), Snooze(9)], "snoozed", 9, 0),
        ([Reject("a"), Snooze(7)], "snoozed", 7, 0),
        ([Snooze(7), ValueError()], "failed", None, 7),
        ([Snooze(7), RetryIn(3)], "failed", 3, 7),
    ],
)
def test_the_outcome_of_several_handlers(
    message: Callable[..., bytes],
    raised: list[BaseException | None],
    name: str,
    delay: float | None,
    at_least: float,
) -> None:
    """A failure goes before a snooze, a rejection, a discard; the soonest retry and the longest snooze count."""
    handlers = Handlers()
    for error in raised:
        handlers.message()(_raise(error) if error else lambda event: None)
    run = Run(handlers)
    assert run(message()) == [name]
    assert (run.ends[0][1].delay, run.ends[0][1].at_least) == (delay, at_least)


@pytest.mark.parametrize("swallow", [False, True], ids=["", "swallowing"])
def test_sync_time_out(message: Callable[..., bytes], swallow: bool) -> None:
    """A plain handler over its time is interrupted, also one that swallows the first time-out."""
    handlers = Handlers()

    @handlers.message()
    def slow(_: object) -> None:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            if not swallow:
                raise
        while True:
            time.sleep(0.01)

    run = Run(handlers, timeout=0.1)
    began = time.monotonic()
    assert run(message("a"), message("b")) == ["failed", "failed"]
    assert time.monotonic() - began < 30
    assert "HandlerTimeout: not done after 0.1 s" in run.ends[0][1].detail


def test_a_call_that_cannot_be_interrupted(
    message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts as failed, its thread is replaced, and the log says where it hangs."""
    monkeypatch.setattr("workers.dispatch.threads.GRACE_SECONDS", 0.1)
    handlers, go = Handlers(), threading.Event()

    @handlers.message("text")
    def hangs(_: object) -> None:
        go.wait(60)

    handlers.message("image")(lambda event: None)
    run = Run(handlers, timeout=0.1)
    assert run(message("a", sender="1"), message("b", sender="2", type="image")) == ["failed", "handled"]
    assert "not done after 0.1 s, nor could it be interrupted" in run.ends[0][1].detail
    assert "HandlerTimeout at " in run.ends[0][1].error
    assert run.dispatcher.hangs
    out = capsys.readouterr().err
    assert "handler hangs" in out
    assert "test_dispatcher.py" in out
    go.set()


def test_a_time_out_does_not_reach_the_next_event(message: Callable[..., bytes]) -> None:
    """A handler that ends just as its time is over leaves no interruption behind."""
    handlers, left = Handlers(), []

    @handlers.message()
    def close(event: Any) -> None:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass

    run = Run(handlers, timeout=0.02, threads=3)
    for _ in range(20):
        run.ends.clear()
        run(*[message(str(n), sender=str(n)) for n in range(6)])
        left.append(len(run.ends))
    assert left == [6] * 20
    assert not any(place.abandoned for place in run.dispatcher._calls._threads._places)


def test_a_blocking_async_handler(message: Callable[..., bytes], capsys: pytest.CaptureFixture[str]) -> None:
    """An async handler that blocks the loop is named in the log after a second, and interrupted at its time limit."""
    handlers = Handlers()

    @handlers.message("text")
    async def blocks(_: object) -> None:
        time.sleep(60)  # noqa: ASYNC251

    @handlers.message("image")
    async def fine(_: object) -> None:
        await asyncio.sleep(0.01)

    run = Run(handlers, timeout=2)
    began = time.monotonic()
    names = run(message("a", sender="1"), message("b", sender="2", type="image"))
    assert sorted(names) == ["failed", "handled"]
    assert 1.5 < time.monotonic() - began < 30
    out = capsys.readouterr().err
    assert "blocks the event loop" in out
    assert "blocks" in out.partition("handler=")[2]
    assert "HandlerTimeout" in dict(run.ends)["a"].detail


def test_one_blocks_after_another(message: Callable[..., bytes], capsys: pytest.CaptureFixture[str]) -> None:
    """Where the loop does not turn in between, each handler that blocks it is named, and has its own time."""
    handlers = Handlers()

    @handlers.message("text")
    async def blocks(_: object) -> None:
        time.sleep(60)  # noqa: ASYNC251

    @handlers.message("image")
    async def blocks_for_less(_: object) -> None:
        time.sleep(1.8)  # noqa: ASYNC251

    run = Run(handlers, timeout=4)
    # Both begin in the same turn of the loop.
    assert sorted(run(message("a", sender="1"), message("b", sender="2", type="image"))) == ["failed", "handled"]
    assert dict(run.ends)["b"].name == "handled"
    out = capsys.readouterr().err
    assert ".blocks " in out
    assert ".blocks_for_less " in out


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_blocked_loop_is_no_fault_of_others(message: Callable[..., bytes], uvloop: bool) -> None:
    """Time in which another handler blocks the loop counts for nobody's limit: only the one that blocks has failed."""
    handlers = Handlers()

    @handlers.message("text")
    async def blocks(_: object) -> None:
        await asyncio.sleep(0.1)
        time.sleep(60)  # noqa: ASYNC251

    @handlers.message("image")
    async def fine(_: object) -> None:
        await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)

    run = Run(handlers, timeout=2, uvloop=uvloop)
    others = [message(str(n), sender=str(n), type="image") for n in range(5)]
    names = run(message("a", sender="a"), *others)
    assert names.count("handled") == 5
    assert dict(run.ends)["a"].name == "failed"


def test_a_handler_that_blocks_again_and_again(message: Callable[..., bytes]) -> None:
    """It gets no more time for what it blocks itself than three times its limit."""
    handlers = Handlers()

    @handlers.message()
    async def blocks(_: object) -> None:
        while True:
            time.sleep(0.4)  # noqa: ASYNC251
            await asyncio.sleep(0)

    run = Run(handlers, timeout=0.5)
    began = time.monotonic()
    assert run(message()) == ["failed"]
    assert time.monotonic() - began < 30


def test_the_only_async_handler_blocks(message: Callable[..., bytes]) -> None:
    """It is interrupted, too, when nothing else was in flight and nobody has looked since it began."""
    handlers = Handlers()

    @handlers.message()
    async def blocks(_: object) -> None:
        time.sleep(60)  # noqa: ASYNC251

    run = Run(handlers, timeout=2)
    run.dispatcher.watch()
    (event,) = [event for event in parse(message(), 0) if isinstance(event, Event)]
    run.dispatcher.add([(0, event)], run, Source("messages"))
    run.dispatcher.begin()
    began = time.monotonic()
    run.dispatcher.loop.run_until_complete(asyncio.sleep(0.05))
    run.dispatcher.loop.run_until_complete(asyncio.sleep(0))
    assert time.monotonic() - began < 30
    assert [outcome.name for _, outcome in run.ends] == ["failed"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_plain_function_that_returns_a_coroutine(message: Callable[..., bytes], fails: bool) -> None:
    """What a decorator around an `async def` returns is awaited: a failure in there is a failure."""
    handlers, done = Handlers(), []

    async def real(event: Any) -> None:
        await asyncio.sleep(0.01)
        done.append(event.id)
        if fails:
            raise ValueError

    handlers.message()(lambda event: real(event))
    assert Run(handlers)(message("a")) == ["failed" if fails else "handled"]
    assert done == ["a"]


def test_threads(message: Callable[..., bytes]) -> None:
    """As many plain handlers run at a time as there are threads; one contact's never overlap and keep their order."""
    handlers, lock = Handlers(), threading.Lock()
    running: set[str] = set()
    order: dict[str, list[int]] = {}
    most = 0

    @handlers.message()
    def handle(event: Any) -> None:
        nonlocal most
        with lock:
            assert event.sender not in running
            running.add(event.sender)
            most = max(most, len(running))
        time.sleep(0.001 * (int(event.id) * 7 % 5))
        with lock:
            running.remove(event.sender)
        order.setdefault(event.sender, []).append(int(event.id))

    names = Run(handlers, threads=4)(*[message(str(n), sender=str(n % 9)) for n in range(200)])
    assert names == ["handled"] * 200
    assert all(ids == sorted(ids) for ids in order.values())
    assert most == 4


def test_plain_and_async_handlers_of_one_event(message: Callable[..., bytes]) -> None:
    """They are called one after another in their order, each where it belongs."""
    handlers, where = Handlers(), []
    handlers.message()(lambda event: where.append(threading.current_thread().name))

    @handlers.message()
    async def on_the_loop(event: Any) -> None:
        where.append(threading.current_thread().name)

    handlers.message()(lambda event: where.append(threading.current_thread().name))
    assert Run(handlers)(message()) == ["handled"]
    assert where == ["handlers", threading.current_thread().name, "handlers"]


def test_each_event_has_its_whole_time(status: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out counts from each event's own beginning, though one timer serves many events."""
    handlers = Handlers()
    handlers.status()(lambda event: time.sleep(float(event.id)))
    run = Run(handlers, timeout=0.5)
    monkeypatch.setattr("workers.dispatch.threads.GRACE_SECONDS", 0.1)
    names = run(*[status(id) for id in ("0.3", "0.3", "0.3", "30", "0.3")])
    assert sorted(names) == ["failed", *["handled"] * 4]


def test_async_time_out(message: Callable[..., bytes]) -> None:
    """An async handler is cancelled when its time is over, and the others go on. The failure names its line."""
    handlers = Handlers()

    @handlers.message()
    async def slow(event: Any) -> None:
        if event.id == "a":
            await asyncio.sleep(60)

    run = Run(handlers, timeout=0.1)
    run(message("a", sender="1"), message("b", sender="2"))
    assert {id: outcome.name for id, outcome in run.ends} == {"a": "failed", "b": "handled"}
    line = slow.__code__.co_firstlineno + 3
    assert dict(run.ends)["a"].error == f"HandlerTimeout at {__file__}:{line}"


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


def test_what_waits_for_its_turn_has_not_begun(message: Callable[..., bytes], redis: Redis) -> None:
    """While a handler has as many calls in flight as it may, the others wait in order of arrival, and none begins to
    be put off again."""
    handlers, called, put_off = Handlers(), [], []

    @handlers.message(concurrency=3)
    async def handler(event: Any) -> None:
        called.append(event.id)
        await asyncio.sleep(0.002)

    run = Run(handlers, rate_limits=RateLimits(PipelinedConnection(redis)))
    run.put_off = put_off.append  # type: ignore[method-assign]
    names = [f"{n:02}" for n in range(60)]
    assert run(*[message(name, sender=name) for name in names]) == ["handled"] * 60
    assert (called, put_off) == (names, [])


@pytest.mark.parametrize("is_async", [False, True])
def test_rate_of_a_handler(message: Callable[..., bytes], redis: Redis, is_async: bool) -> None:
    """Calls come at the handler's rate, in the order of each contact."""
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


def test_nobody_waits_for_a_handler_that_lags(message: Callable[..., bytes], redis: Redis) -> None:
    """While as many calls of a handler are in flight as may be, others get their events all the same, and it later."""
    handlers, called, over = Handlers(), [], asyncio.Event()

    @handlers.message(concurrency=1)
    async def slow(event: Any) -> None:
        called.append(f"slow {event.id}")
        await over.wait()

    @handlers.message()
    async def quick(event: Any) -> None:
        called.append(f"quick {event.id}")
        if event.id == "2":
            over.set()

    run = Run(handlers, rate_limits=RateLimits(PipelinedConnection(redis)))
    assert run(*[message(str(n), sender=str(n)) for n in range(3)]) == ["put_off", "put_off", "handled"]
    assert called == ["slow 0", "quick 1", "quick 2", "quick 0"]
    for _, outcome in run.ends[:2]:
        assert outcome.owed == (handlers.registered[0].name,)
        assert outcome.done == (handlers.registered[1].digest,)


@pytest.mark.parametrize("bulk", [{}, {"bulk": 2, "linger": 0}])
def test_what_waits_for_its_turn(message: Callable[..., bytes], redis: Redis, bulk: Any) -> None:
    """It is known how many events wait until a handler may be called, by lane, and since when the oldest does."""
    handlers = Handlers()
    handlers.message("text", rate="1/h", **bulk)(lambda events: None)
    handlers.message("image")(lambda event: None)
    connection = PipelinedConnection(redis)
    limits = RateLimits(connection)
    run = Run(handlers, threads=8, rate_limits=limits)
    bodies = [message(str(n), sender=str(n), type="text" if n else "image") for n in range(6)]
    events = [(n, e) for n, body in enumerate(bodies) for e in parse(body, 1000 + n) if isinstance(e, Event)]
    run.dispatcher.hurried.add("messages")
    run.dispatcher.add(events, run, Source("messages"))
    run.dispatcher.begin()
    run.dispatcher.begin()
    hands = Hands(run.dispatcher)
    assert inside.of(hands, run.dispatcher).turns == [Turn("messages", handlers.registered[0].name, 4, 1002, 1002)]
    run.done = frozenset({b"crm"})
    assert next(iter(inside.of(hands, run.dispatcher).turns)).first_try_ms is None
    (hold,) = limits.holds()
    assert (hold.handler, hold.by, round(hold.figure * 3600)) == (handlers.registered[0].name, "rate", 1)
    connection.hang_up()


def test_lists_that_wait_for_their_turn(message: Callable[..., bytes], redis: Redis) -> None:
    """What a list's concurrency holds back waits for its turn, both of its handler and of its lane, and not for a slot,
    however many events a notification has.
    """
    handlers, over = Handlers(), asyncio.Event()

    @handlers.message(bulk=2, linger=0, concurrency=2)
    async def stores(messages: Any) -> None:
        await over.wait()

    connection = PipelinedConnection(redis)
    run = Run(handlers, rate_limits=RateLimits(connection))
    hands = Hands(run.dispatcher)
    source = hands.of("messages.0").source
    events = [e for n in range(10) for e in parse(message(str(n), sender=str(n)), 1000 + n) if isinstance(e, Event)]
    run.dispatcher.add(((n // 2, event) for n, event in enumerate(events)), run, source)
    run.dispatcher.begin()
    run.dispatcher.loop.run_until_complete(asyncio.sleep(0))
    found = inside.of(hands, run.dispatcher)
    assert found.lanes == {"messages": Standing(running=2, turns=3)}
    assert [turn.events for turn in found.turns] == [6]
    assert list(found.ready) == []
    over.set()
    while run.dispatcher.in_flight:
        run.dispatcher.begin()
        run.dispatcher.loop.run_until_complete(asyncio.sleep(0.01))
    connection.hang_up()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_where_all_in_hand_stands(message: Callable[..., bytes], kind: str) -> None:
    """Each notification in hand is counted once: under way, for a slot or thread, behind its contact's, in a list. The
    handler's own figures are what is called now, with no slot left, and what is still to be called.
    """
    handlers, over = Handlers(), threading.Event()

    def plain(event: Event) -> None:
        over.wait(30)

    async def waits(event: Event) -> None:
        await asyncio.to_thread(over.wait, 30)

    handlers.message("text")(plain if kind == "def" else waits)
    handlers.message("image", bulk=9, linger=600)(lambda events: None)
    name = handlers.registered[0].name
    run = Run(handlers, concurrency=2, threads=2)
    hands = Hands(run.dispatcher)
    source = hands.of("messages.0").source
    senders = ["1", "1", "1", "2", "3", "4"]
    bodies = [message(str(n), sender=sender) for n, sender in enumerate(senders)]
    bodies.append(message("list", sender="5", type="image"))
    events = [(n, e) for n, body in enumerate(bodies) for e in parse(body, 1000 + n) if isinstance(e, Event)]
    run.dispatcher.add(events, run, source)
    run.dispatcher.begin()
    run.dispatcher.loop.run_until_complete(asyncio.sleep(0.1))
    found = inside.of(hands, run.dispatcher)
    assert found.lanes == {"messages": Standing(running=2, ready=2, in_line=2, gathering=1)}
    (begun,) = found.calls
    assert begun[:3] + begun[4:] == ("messages", name, 2, f"no {'thread' if kind == 'def' else 'async slot'} is free")
    assert found.ready == [Turn("messages", name, 2, 1004, 1004)]
    over.set()
    while run.dispatcher.in_flight > 1:  # all but the list
        run.dispatcher.loop.run_until_complete(asyncio.sleep(0.01))


def test_strict_order_waits_for_all(message: Callable[..., bytes], redis: Redis) -> None:
    """An event with a handler in strict order is begun when each may be called: later ones would wait for it anyway."""
    handlers, called = Handlers(), []
    handlers.message()(lambda event: called.append(f"a{event.id}"))
    handlers.message(rate="2/s", strict_order=True)(lambda event: called.append(f"b{event.id}"))
    run = Run(handlers, rate_limits=RateLimits(PipelinedConnection(redis)))
    assert run(*[message(str(n)) for n in range(3)]) == ["handled"] * 3
    assert called == ["a0", "b0", "a1", "b1", "a2", "b2"]


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
