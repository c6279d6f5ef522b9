"""The user's handlers: how they are registered, and which of them an event goes to."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, TypeVar

from ingest.state import rates
from ingest.store.records import handler_digest
from workers.events import Change, Error, Event, Message, Profile, Status

_SUBJECTS = 1000  # that are remembered, unless they are long: they come from outside
_LONGEST_SUBJECT = 256

Function = TypeVar("Function", bound=Callable[..., Any])

Hook = TypeVar("Hook", bound=Callable[[], object])

# A function of an event that gives a context manager, or the generator function of one.
Around = TypeVar("Around", bound=Callable[[Any], object])

OnFailure = TypeVar("OnFailure", bound=Callable[[Any, BaseException, int], object])

# What each decorator takes, plain or async, so that a type checker finds a handler of another event.
OnMessage = TypeVar("OnMessage", bound=Callable[[Message], object])
OnStatus = TypeVar("OnStatus", bound=Callable[[Status], object])
OnError = TypeVar("OnError", bound=Callable[[Error], object])
OnProfile = TypeVar("OnProfile", bound=Callable[[Profile], object])
OnChange = TypeVar("OnChange", bound=Callable[[Change], object])


class Discard(Exception):
    """Raised by a handler: drop this event, it needs no other try. The text says why."""


class Reject(Exception):
    """Raised by a handler: make this event a dead letter at once (`rejected`). The text says why."""


class _Later(Exception):
    """Says when this event is tried again."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{type(self).__name__} takes seconds, 0 or more, and not for ever")
        super().__init__(seconds)
        self.seconds = float(seconds)


class RetryIn(_Later):
    """Raised by a handler: try this event again in so many seconds. It counts as an attempt."""


class Snooze(_Later):
    """Raised by a handler: call me again for this event in so many seconds (a 429 with Retry-After). It is no failure
    and counts as no attempt; an event may be snoozed again and again, until it is older than WA_MAX_AGE.
    """


class HandlersError(Exception):
    """WA_HANDLERS names something that is no registry, or a handler is registered wrongly. The message is one line with
    the remedy.
    """


class WrongType(HandlersError, TypeError):
    """A decorator was given something of the wrong type."""


class WrongValue(HandlersError, ValueError):
    """A decorator was given something that means nothing."""


@dataclass(eq=False, slots=True)
class Handler:
    """A registered function."""

    function: Callable[[Any], Any]
    kind: str
    wants: frozenset[str]
    """Message types, statuses or change fields; empty: all."""
    is_async: bool
    name: str
    """`module.function`, for logs and metrics."""
    rate: float | None = None
    """Calls per second at most, over all workers of one Redis."""
    concurrency: int | None = None
    """Calls in flight at a time at most, in one worker process."""
    digest: bytes = b""
    """Of the name, and of how many were registered with it before: a retry remembers by it that this one is done."""
    call: Callable[[Any], Any] = None  # type: ignore[assignment]  # see __post_init__
    """What is called: the function, within the plain context managers of `Handlers.around`."""
    arounds: tuple[Callable[[Any], AbstractAsyncContextManager[object]], ...] = ()
    """The `async` ones: `call` is called within these, too."""

    def __post_init__(self) -> None:
        self.call = self.function

    def within(self, plain: tuple[Callable[[Any], AbstractContextManager[object]], ...], arounds: Any) -> None:
        """Have each call made within these context managers."""
        self.call = _within(plain, self.function, self.is_async) if plain else self.function
        self.arounds = arounds

    @property
    def needs_loop(self) -> bool:
        """True when a call is made from the loop on which async handlers run."""
        return self.is_async or bool(self.arounds)

    @asynccontextmanager
    async def entered(self, argument: Any) -> AsyncIterator[None]:
        """The `async` context managers around one call."""
        async with AsyncExitStack() as stack:
            for around in self.arounds:
                await stack.enter_async_context(around(argument))
            yield

    @property
    def is_throttled(self) -> bool:
        """True when a call may have to wait for its turn."""
        return self.rate is not None or self.concurrency is not None


def _within(plain: Any, function: Callable[[Any], Any], is_async: bool) -> Callable[[Any], Any]:
    def enter(argument: Any) -> ExitStack:
        with ExitStack() as stack:
            for around in plain:
                stack.enter_context(around(argument))
            return stack.pop_all()

    def call(argument: Any) -> Any:
        with enter(argument):
            return function(argument)

    async def call_async(argument: Any) -> Any:
        with enter(argument):
            return await function(argument)

    return call_async if is_async else call


class Handlers:
    """A registry of handlers. All that match an event are called, in the order of registration.

    A handler takes the event; it is a plain function, which is called in a thread, or `async def`. Its return value is
    ignored. An exception means: try this event again later, with this handler. Each handler of an event ends by itself:
    the others are called all the same, and one that has succeeded is not called again.

    Each decorator takes two more arguments. `rate`, such as "50/s", "100/m" or "10/h", is how often its function is
    called at most, over all workers of one Redis (with several Redis, each has that rate). `concurrency` is how many of
    its calls are in flight at a time in one worker process. An event waits until all its handlers may be called; this
    counts neither as an attempt nor for WA_HANDLER_TIMEOUT. Meanwhile the worker goes on with other events.
    """

    def __init__(self) -> None:
        self._registered: list[Handler] = []
        self._matching: dict[tuple[str, str | None], tuple[tuple[Handler, ...], bool | None]] = {}
        self._arounds: tuple[Callable[[Any], Any], ...] = ()
        self._async_arounds: tuple[Callable[[Any], Any], ...] = ()
        self.on_errors: list[Handler] = []
        """What is called with (event, exception, attempt) when a handler has failed."""
        self.startups: list[Callable[[], object]] = []
        self.shutdowns: list[Callable[[], object]] = []
        self.wants_profiles = False
        """True when there is a profile handler."""
        self.any_throttled = False
        """True when there is a handler with a rate or a concurrency of its own."""

    def message(
        self, *types: str, rate: str | None = None, concurrency: int | None = None
    ) -> Callable[[OnMessage], OnMessage]:
        """For messages of these types (`text`, `image`, `button`, …); none named: every type."""
        return self._register("message", types, rate, concurrency)

    def status(
        self, *statuses: str, rate: str | None = None, concurrency: int | None = None
    ) -> Callable[[OnStatus], OnStatus]:
        """For statuses (`sent`, `delivered`, `read`, `failed`, …); none named: every status."""
        return self._register("status", statuses, rate, concurrency)

    def error(self, *, rate: str | None = None, concurrency: int | None = None) -> Callable[[OnError], OnError]:
        """For errors that are not part of a message or a status."""
        return self._register("error", (), rate, concurrency)

    def profile(self, *, rate: str | None = None, concurrency: int | None = None) -> Callable[[OnProfile], OnProfile]:
        """For news of a contact: name, username, number, user id or identity changed.

        A message of type system says that a number, a user id or an identity changed; a new name comes with the
        contact's next message. Each such message gives one `Profile`, after its message handlers were called. News is
        what differs from what was last seen at the same business number. A contact seen for the first time is no news,
        nor is a fact that the message leaves out, or one never seen before. A message's facts count as seen once its
        handlers returned. Redis keeps only digests of them, for 30 to 60 days after the contact's last message, and
        nothing when there is no profile handler.
        """
        return self._register("profile", (), rate, concurrency)

    def change(
        self, *fields: str, rate: str | None = None, concurrency: int | None = None
    ) -> Callable[[OnChange], OnChange]:
        """For Cloud changes of these fields (`account_update`, `calls`, …); none named: every field but `messages`."""
        return self._register("change", fields, rate, concurrency)

    def startup(self, function: Hook) -> Hook:
        """Called once in each worker process, before its first event: the place to open clients and pools.

        Plain or `async def`, without arguments; on the loop on which async handlers run. One that fails stops the
        worker with its error, and it is started again.
        """
        self.startups.append(function)
        return function

    def shutdown(self, function: Hook) -> Hook:
        """Called once in each worker process, after its last event, as `startup` is: close there what that opened."""
        self.shutdowns.append(function)
        return function

    def around(self, function: Around) -> Around:
        """A context manager around each call of a handler: for sessions, stale connections, spans.

        A function of the event with one `yield`, plain or `async def`, or one that gives a context manager. A plain one
        is entered where the handler runs, in its thread or on the loop; an `async` one on the loop, before the plain
        ones. The first one registered is the outermost. What a handler raises is raised at the `yield`, so it can be
        rolled back; what the context manager raises counts as if the handler had raised it. An event with two handlers
        has it around each, because each handler ends by itself.
        """
        wrapped = inspect.unwrap(function)
        made: Callable[[Any], Any] = function
        if inspect.isgeneratorfunction(function):
            made = contextmanager(function)
        elif inspect.isasyncgenfunction(function):
            made = asynccontextmanager(function)
        if inspect.isasyncgenfunction(wrapped) or (hasattr(made, "__aenter__") and not hasattr(made, "__enter__")):
            self._async_arounds += (made,)
        elif inspect.iscoroutinefunction(function):
            raise WrongType("@handlers.around: an `async def` needs one `yield` where the handler is to be called")
        else:
            self._arounds += (made,)
        for handler in self._registered:
            handler.within(self._arounds, self._async_arounds)
        self._matching.clear()
        return function

    def on_error(self, function: OnFailure) -> OnFailure:
        """Called with event, exception and attempt (from 1) when a handler has failed, after each such try.

        Plain or `async def`. Not for what a handler decides: Discard, Reject, RetryIn. What it raises itself is logged.
        It takes part of the handler's slot, and WA_HANDLER_TIMEOUT holds for it, too.
        """
        name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
        is_async = inspect.iscoroutinefunction(function)
        self.on_errors.append(Handler(lambda failure: function(*failure), "failure", frozenset(), is_async, name))
        return function

    def _register(
        self, kind: str, wants: tuple[Any, ...], rate: str | None, concurrency: int | None
    ) -> Callable[[Function], Function]:
        if any(not isinstance(want, str) for want in wants):
            raise WrongType(f"write @handlers.{kind}(…) with parentheses, and names as strings")
        if rate is not None and not isinstance(rate, str):
            raise WrongType(f'@handlers.{kind}: rate={rate!r} is no text such as "50/s", "100/m" or "10/h"')
        try:
            per_second = None if rate is None else rates.per_second(rate)
        except ValueError as error:
            raise WrongValue(f"@handlers.{kind}: rate={error}") from None
        if concurrency is not None and (isinstance(concurrency, bool) or not isinstance(concurrency, int)):
            raise WrongType(f"@handlers.{kind}: concurrency={concurrency!r} is no whole number")
        if concurrency is not None and concurrency < 1:
            raise WrongValue(f"@handlers.{kind}: concurrency={concurrency} is less than 1")

        def register(function: Function) -> Function:
            is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
                getattr(function, "__call__", None)  # noqa: B004 - an object with `async def __call__`
            )
            name = (
                f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"
            )
            handler = Handler(
                function,
                kind,
                frozenset(wants),
                is_async,
                name,
                per_second,
                concurrency,
                handler_digest(f"{name} {sum(one.name == name for one in self._registered)}"),
            )
            handler.within(self._arounds, self._async_arounds)
            self._registered.append(handler)
            self._matching.clear()
            self.wants_profiles |= kind == "profile"
            self.any_throttled |= self._registered[-1].is_throttled
            return function

        return register

    @property
    def registered(self) -> tuple[Handler, ...]:
        """All of them, in the order of registration."""
        return tuple(self._registered)

    def __len__(self) -> int:
        return len(self._registered)

    @property
    def any_async(self) -> bool:
        """True when workers need an event loop."""
        hooks = (*self.startups, *self.shutdowns)
        called = (*self._registered, *self.on_errors)
        return any(handler.needs_loop for handler in called) or any(map(inspect.iscoroutinefunction, hooks))

    def of_kinds(self, *kinds: str) -> list[Handler]:
        """The handlers of these kinds of event."""
        return [handler for handler in self._registered if handler.kind in kinds]

    def matching(self, event: Event) -> tuple[tuple[Handler, ...], bool | None]:
        """The handlers of an event, profile handlers apart; and True when handling it may need the loop, False when
        only threads, None when no handler matches it.
        """
        wanted = event.kind, event.subject
        found = self._matching.get(wanted)
        if found is None:
            found = self._find(*wanted)
            if len(self._matching) < _SUBJECTS and len(event.subject or "") <= _LONGEST_SUBJECT:
                self._matching[wanted] = found
        return found

    def calls(self, event: Event, matching: tuple[Handler, ...] | None = None) -> list[tuple[Handler, Event]]:
        """The handlers to call, and with what: a message may also be news of a profile. `matching`, if it is known."""
        found = self.matching(event)[0] if matching is None else matching
        calls: list[tuple[Handler, Event]] = [(handler, event) for handler in found]
        if self.wants_profiles and isinstance(event, Message) and (profile := event.profile) is not None:
            calls += [(handler, profile) for handler in self.of_kinds("profile")]
        return calls

    def _find(self, kind: str, subject: str | None) -> tuple[tuple[Handler, ...], bool | None]:
        found = tuple(h for h in self._registered if h.kind == kind and (not h.wants or subject in h.wants))
        called = (*found, *self.of_kinds("profile")) if kind == Message.kind else found
        return found, any(handler.needs_loop for handler in called) if called else None
