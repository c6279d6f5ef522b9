"""`@handlers.around` and `@handlers.on_error`, with handlers of both kinds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from workers import Discard, Handlers, Message, Reject, RetryIn
from workers.raised import WrongType
from workers.testing import call

BODY = {"messages": [{"from": "15550001", "id": "m1", "type": "text", "text": {"body": "Hello"}}]}
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def handler(handlers: Handlers, is_async: bool, does: Callable[[Message], object]) -> None:
    """Register a handler of one kind or the other."""
    if is_async:

        @handlers.message()
        async def on_message(message: Message) -> None:
            await asyncio.sleep(0)
            does(message)

    else:
        handlers.message()(does)


both = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])


@both
@pytest.mark.parametrize("made", ["generator", "contextmanager", "class"])
def test_a_plain_context_manager_is_around_the_call(is_async: bool, made: str) -> None:
    """It is entered in the handler's own thread and context, and left after it."""
    steps: list[str] = []
    threads: set[int] = set()
    handlers = Handlers()

    def around(message: Message) -> Iterator[None]:
        threads.add(threading.get_ident())
        tenant.set("A")
        steps.append("enter")
        yield
        steps.append("leave")

    class Around:
        def __init__(self, message: Message) -> None:
            self.steps = around(message)

        def __enter__(self) -> None:
            next(self.steps)

        def __exit__(self, *raised: object) -> None:
            next(self.steps, None)

    handlers.around({"generator": around, "contextmanager": contextmanager(around), "class": Around}[made])

    def does(message: Message) -> None:
        threads.add(threading.get_ident())
        steps.append(tenant.get())

    handler(handlers, is_async, does)
    (called,) = call(handlers, BODY)
    assert (called.outcome, steps, len(threads)) == ("handled", ["enter", "A", "leave"], 1)
    assert tenant.get() == "nobody"


@both
@pytest.mark.parametrize("decorated", [False, True])
def test_an_async_context_manager_is_around_the_call(is_async: bool, decorated: bool) -> None:
    """It is entered on the loop; a plain handler sees its context variables, though it runs in a thread."""
    steps: list[str] = []
    handlers = Handlers()

    async def around(message: Message) -> AsyncIterator[None]:
        tenant.set("A")
        await asyncio.sleep(0)
        steps.append("enter")
        yield
        steps.append("leave")

    handlers.around(asynccontextmanager(around) if decorated else around)
    handler(handlers, is_async, lambda message: steps.append(tenant.get()))
    (called,) = call(handlers, BODY)
    assert (called.outcome, steps) == ("handled", ["enter", "A", "leave"])


@both
def test_the_first_one_is_the_outermost_wherever_the_handler_was_registered(is_async: bool) -> None:
    """Handlers that were registered before a context manager are called within it, too."""
    steps: list[str] = []
    handlers = Handlers()
    handler(handlers, is_async, lambda message: steps.append("call"))
    for name in "12":

        @handlers.around
        def around(message: Message, name: str = name) -> Iterator[None]:
            steps.append(name)
            yield
            steps.append(name)

    call(handlers, BODY)
    assert steps == ["1", "2", "call", "2", "1"]


@both
def test_what_a_handler_raises_is_raised_at_the_yield(is_async: bool) -> None:
    """So a transaction is rolled back, of that handler alone: the other one's is committed."""
    ends: list[str] = []
    handlers = Handlers()

    @handlers.around
    def transaction(message: Message) -> Iterator[None]:
        try:
            yield
        except ValueError:
            ends.append("rolled back")
            raise
        ends.append("committed")

    def fails(message: Message) -> None:
        raise ValueError

    handler(handlers, is_async, fails)
    handler(handlers, is_async, lambda message: None)
    (called,) = call(handlers, BODY)
    assert called.outcome == "failed"
    assert sorted(ends) == ["committed", "rolled back"]


@both
def test_one_that_fails_fails_the_call(is_async: bool) -> None:
    """A database that gives no connection is a failed try, and the place is the user's line."""
    handlers = Handlers()

    @handlers.around
    def session(message: Message) -> Iterator[None]:
        raise ConnectionError("no connection")
        yield

    handler(handlers, is_async, lambda message: pytest.fail("called"))
    (called,) = call(handlers, BODY)
    assert called.outcome == "failed"
    assert "ConnectionError" in called.detail
    assert "test_hooks.py" in called.detail


def test_an_async_function_without_a_yield_is_refused() -> None:
    """Registered as it is, no handler would ever be called within it."""
    with pytest.raises(WrongType, match="yield"):

        @Handlers().around
        async def around(message: Message) -> None: ...


@both
@pytest.mark.parametrize("hook_is_async", [False, True])
def test_a_failed_try_is_told(is_async: bool, hook_is_async: bool) -> None:
    """`on_error` gets the event, the exception and the number of the try."""
    told: list[Any] = []
    handlers = Handlers()

    def hook(event: Message, error: BaseException, attempt: int) -> None:
        told.append((event.id, repr(error), attempt))

    async def async_hook(event: Message, error: BaseException, attempt: int) -> None:
        await asyncio.sleep(0)
        hook(event, error, attempt)

    handlers.on_error(async_hook if hook_is_async else hook)

    def fails(message: Message) -> None:
        raise ValueError("text")

    handler(handlers, is_async, fails)
    (called,) = call(handlers, BODY, attempt=3)
    assert (called.outcome, told) == ("failed", [("m1", "ValueError('text')", 3)])


@both
@pytest.mark.parametrize("decision", [Discard("why"), Reject("why"), RetryIn(1)])
def test_a_decision_is_no_error(is_async: bool, decision: Exception, logged: list[Any]) -> None:
    """What a handler raises to say what is to become of the event is not told."""
    handlers = Handlers()
    handlers.on_error(lambda *failure: pytest.fail("told"))

    def decides(message: Message) -> None:
        raise decision

    handler(handlers, is_async, decides)
    call(handlers, BODY)
    assert not logged


@both
def test_a_hook_that_fails_changes_nothing(is_async: bool, logged: list[Any]) -> None:
    """It is a line in the log with its name, and the event's outcome is its handler's."""
    handlers = Handlers()

    @handlers.on_error
    def hook(*failure: object) -> None:
        raise KeyError

    def fails(message: Message) -> None:
        raise ValueError

    handler(handlers, is_async, fails)
    (called,) = call(handlers, BODY)
    assert "ValueError" in called.detail
    (line,) = logged
    assert line["event"] == "on_error failed"
    assert "hook" in line["function"]
    assert line["error"].startswith("KeyError at ")


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, BaseException])
def test_whatever_is_raised_is_a_failed_try_of_that_event(is_async: bool, error: type[BaseException]) -> None:
    """Not only an Exception: a panic of a Rust library is a BaseException, and no reason to end the worker."""
    handlers = Handlers()

    def fails(message: Message) -> None:
        raise error

    handler(handlers, is_async, fails)
    (called,) = call(handlers, BODY)
    assert called.outcome == "failed"
    assert called.detail.startswith(error.__name__)


def test_a_task_that_cancels_itself_has_failed() -> None:
    """It is not taken for the worker's stop, which would have the event begin again and again."""
    handlers = Handlers()

    @handlers.message()
    async def cancels(message: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    after: list[str] = []

    @handlers.message()
    async def another(message: Message) -> None:
        await asyncio.sleep(0)
        after.append("called")

    (called,) = call(handlers, BODY)
    assert (called.outcome, after) == ("failed", ["called"])


@both
def test_a_hang_is_told(is_async: bool) -> None:
    """A handler past its time limit is a failed try like any other."""
    told: list[str] = []
    never = threading.Event()
    handlers = Handlers()
    handlers.on_error(lambda event, error, attempt: told.append(type(error).__name__))

    def hangs(message: Message) -> None:
        while not never.wait(0.01):
            pass

    async def hangs_async(message: Message) -> None:
        await asyncio.sleep(3600)

    handlers.message()(hangs_async if is_async else hangs)
    (called,) = call(handlers, BODY, timeout=0.2)
    assert (called.outcome, told) == ("failed", ["HandlerTimeout"])


@both
def test_whose_time_out_it_was(is_async: bool) -> None:
    """A call of the handler's own that times out is its error; what a library makes of our interruption is ours;
    and what a handler decides then, is decided.
    """
    handlers = Handlers()

    def own(message: Message) -> None:
        raise TimeoutError("of the database")

    handler(handlers, is_async, own)
    (called,) = call(handlers, BODY)
    assert called.detail.startswith("TimeoutError: of the database")

    def library(raises: BaseException) -> Handlers:
        registry = Handlers()

        def plain(message: Message) -> None:
            try:
                while True:
                    time.sleep(0.01)
            except Exception:  # neither: it is no error of what is called
                return
            except BaseException:
                raise raises from None

        async def awaits(message: Message) -> None:
            try:
                await asyncio.sleep(3600)
            except Exception:
                return
            except BaseException:
                raise raises from None

        registry.message()(awaits if is_async else plain)
        return registry

    (called,) = call(library(ConnectionError("read timed out")), BODY, timeout=0.1)
    assert called.detail.startswith("HandlerTimeout: not done after 0.1 s")
    (called,) = call(library(Discard("too slow")), BODY, timeout=0.1)
    assert called.outcome == "discarded"


def test_plain_handlers_have_loops_of_their_own() -> None:
    """Beside async handlers, a plain one may call asyncio.run: it is not called inside a running loop."""
    seen: list[str] = []
    handlers = Handlers()

    @handlers.message()
    def runs(message: Message) -> None:
        asyncio.run(asyncio.sleep(0))
        seen.append("ran")

    @handlers.message()
    async def beside(message: Message) -> None:
        seen.append("beside")

    (called,) = call(handlers, BODY)
    assert (called.outcome, sorted(seen)) == ("handled", ["beside", "ran"])


def test_a_call_that_cannot_be_interrupted_is_told() -> None:
    """Its thread is left to itself, and another one calls the hook."""
    told = threading.Event()
    lock = threading.Lock()
    lock.acquire()
    handlers = Handlers()
    handlers.on_error(lambda event, error, attempt: told.set())
    handlers.message()(lambda message: lock.acquire() and None)
    (called,) = call(handlers, BODY, timeout=0.1)
    assert called.outcome == "failed"
    assert told.wait(30)
    lock.release()
