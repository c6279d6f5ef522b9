"""The user's handlers: how they are registered, and which of them an event goes to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterable
from contextlib import (
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Literal, Required, TypedDict, TypeVar, Unpack, overload

from ingest.state import rates
from ingest.store.records import handler_digest
from workers.events import Call, Change, Error, Event, Handover, Message, Preference, Profile, Status
from workers.events.change import USER_ID_UPDATE, as_change, field_of
from workers.events.message import HISTORY
from workers.handler import Handler, Selector
from workers.raised import WrongType, WrongValue
from workers.signatures import check_arguments

_SUBJECTS = 1000  # that are remembered, unless they are long: they come from outside
_LONGEST_SUBJECT = 256
_OF_CONTACTS = ("message", "call", "handover", "preference")
_DIRECTIONS = {"in": ("in",), "out": ("out",), "both": ("in", "out")}

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
OnCall = TypeVar("OnCall", bound=Callable[[Call], object])
OnHandover = TypeVar("OnHandover", bound=Callable[[Handover], object])
OnPreference = TypeVar("OnPreference", bound=Callable[[Preference], object])

# And the same with `bulk`.
OnMessages = TypeVar("OnMessages", bound=Callable[[list[Message]], object])
OnStatuses = TypeVar("OnStatuses", bound=Callable[[list[Status]], object])
OnErrors = TypeVar("OnErrors", bound=Callable[[list[Error]], object])
OnChanges = TypeVar("OnChanges", bound=Callable[[list[Change]], object])
OnCalls = TypeVar("OnCalls", bound=Callable[[list[Call]], object])
OnHandovers = TypeVar("OnHandovers", bound=Callable[[list[Handover]], object])
OnPreferences = TypeVar("OnPreferences", bound=Callable[[list[Preference]], object])

Business = str | Iterable[str] | None
"""The ids of one business phone number, or of several."""


class Options(TypedDict, total=False):
    """What each decorator takes by name, see `Handlers`."""

    business: Business
    rate: str | None
    concurrency: int | None


class BulkOptions(Options, total=False):
    """The same of a handler that is called with lists."""

    bulk: Required[int]
    linger: float


class OptionsOfContacts(Options, total=False):
    """What decorators for what contacts do take, too."""

    strict_order: bool


class BulkOptionsOfContacts(BulkOptions, total=False):
    """The same of a handler that is called with lists."""

    strict_order: bool


class Handlers:
    """A registry of handlers. All that match an event are called, in the order of registration.

    A handler takes the event; it is a plain function, which is called in a thread, or `async def`. Its return value is
    ignored. An exception means: try this event again later, with this handler. Each handler of an event ends by itself:
    the others are called all the same, and one that has succeeded is not called again.

    Each decorator takes more arguments. `business` is the id of a business phone number (Cloud:
    `metadata.phone_number_id`), or a list of them: the function is called for events of these numbers only. `rate`,
    such as "50/s", "100/m" or "10/h", is how often its function is called at most, over all workers of one Redis (with
    several Redis, each has that rate). `concurrency` is how many of its calls are in flight at a time in one worker
    process. An event waits until all its handlers may be called; this counts neither as an attempt nor for
    WA_HANDLER_TIMEOUT. Meanwhile the worker goes on with other events.

    With `bulk=N` (every decorator but `profile`) the function is called with a list of up to N events, in order of
    arrival. An event waits for company for `linger` seconds at most (0), and not at all in a backlog. When the function
    returns, all are handled; `PartialFailure` says which are not; any other exception is raised for all, and parts of
    the list are tried at once to find the event at fault. `rate` is then in events, `concurrency` and
    WA_HANDLER_TIMEOUT are for lists.

    With `strict_order=True` (messages, calls, handovers, preferences) an event that has to be tried again holds up what
    the same contact does afterwards: its later events that go to a handler with strict order wait, and use up no tries,
    until the earlier one is handled or a dead letter. Other contacts are not held up. A list has one event of a contact
    at most then.
    """

    def __init__(self) -> None:
        self._registered: list[Handler] = []
        self._matching: dict[Selector, tuple[tuple[Handler, ...], bool | None]] = {}
        self._any_business = False
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
        self.any_bulk = False
        """True when there is a handler that is called with lists."""
        self.any_strict_order = False
        """True when there is a handler with strict order."""
        self.any_destination = False
        """True when there is a handler that posts to a destination."""

    @overload
    def message(
        self,
        *types: str,
        direction: Literal["in", "out", "both"] = "in",
        history: bool = False,
        **options: Unpack[OptionsOfContacts],
    ) -> Callable[[OnMessage], OnMessage]: ...
    @overload
    def message(
        self,
        *types: str,
        direction: Literal["in", "out", "both"] = "in",
        history: bool = False,
        **options: Unpack[BulkOptionsOfContacts],
    ) -> Callable[[OnMessages], OnMessages]: ...
    def message(self, *types: str, direction: str = "in", history: bool = False, **options: Any) -> Any:
        """For messages of these types (`text`, `image`, `button`, …); none named: every type.

        What contacts wrote, unless `direction` says `out`, what the business wrote in the phone's app or by another
        app or agent, or `both`. With `history` it is called with messages of the history instead, which nobody waits to
        have answered.
        """
        if direction not in _DIRECTIONS:
            raise WrongValue(f"@handlers.message: direction={direction!r} is none of in, out, both")
        if history and options.get("strict_order"):
            raise WrongValue("@handlers.message: messages of the history come in no order, so none can be strict")
        ways = frozenset(f"{HISTORY if history else ''}{way}" for way in _DIRECTIONS[direction])
        return self._register("message", types, ways, **options)

    @overload
    def status(self, *statuses: str, **options: Unpack[Options]) -> Callable[[OnStatus], OnStatus]: ...
    @overload
    def status(self, *statuses: str, **options: Unpack[BulkOptions]) -> Callable[[OnStatuses], OnStatuses]: ...
    def status(self, *statuses: str, **options: Any) -> Any:
        """For statuses (`sent`, `delivered`, `read`, `failed`, …; `payment` for all of payments); none named: every
        status."""
        return self._register("status", statuses, **options)

    @overload
    def error(self, **options: Unpack[Options]) -> Callable[[OnError], OnError]: ...
    @overload
    def error(self, **options: Unpack[BulkOptions]) -> Callable[[OnErrors], OnErrors]: ...
    def error(self, **options: Any) -> Any:
        """For errors that are not part of a message or a status."""
        return self._register("error", (), **options)

    def profile(self, **options: Unpack[Options]) -> Callable[[OnProfile], OnProfile]:
        """For news of a contact: name, username, number, user id or identity changed.

        A message of type system says that a number, a user id or an identity changed; a new name comes with the
        contact's next message. Each such message gives one `Profile`, after its message handlers were called. News is
        what differs from what was last seen at the same business number. A contact seen for the first time is no news,
        nor is a fact that the message leaves out, or one never seen before. A message's facts count as seen once its
        handlers returned. Redis keeps only digests of them, for 30 to 60 days after the contact's last message, and
        nothing when there is no profile handler.
        """
        return self._register("profile", (), **options)

    @overload
    def call(self, *events: str, **options: Unpack[OptionsOfContacts]) -> Callable[[OnCall], OnCall]: ...
    @overload
    def call(self, *events: str, **options: Unpack[BulkOptionsOfContacts]) -> Callable[[OnCalls], OnCalls]: ...
    def call(self, *events: str, **options: Any) -> Any:
        """For steps of calls (`connect`, `terminate`, `ringing`, `accepted`, `rejected`, …); none named: all."""
        return self._register("call", events, **options)

    @overload
    def handover(self, *types: str, **options: Unpack[OptionsOfContacts]) -> Callable[[OnHandover], OnHandover]: ...
    @overload
    def handover(
        self, *types: str, **options: Unpack[BulkOptionsOfContacts]
    ) -> Callable[[OnHandovers], OnHandovers]: ...
    def handover(self, *types: str, **options: Any) -> Any:
        """For conversations that pass from one app to another (`control_passed`, …); none named: all."""
        return self._register("handover", types, **options)

    @overload
    def preference(
        self, *values: str, **options: Unpack[OptionsOfContacts]
    ) -> Callable[[OnPreference], OnPreference]: ...
    @overload
    def preference(
        self, *values: str, **options: Unpack[BulkOptionsOfContacts]
    ) -> Callable[[OnPreferences], OnPreferences]: ...
    def preference(self, *values: str, **options: Any) -> Any:
        """For what contacts want to get (`stop`, `resume`, …: marketing messages); none named: all."""
        return self._register("preference", values, **options)

    @overload
    def change(self, *fields: str, **options: Unpack[Options]) -> Callable[[OnChange], OnChange]: ...
    @overload
    def change(self, *fields: str, **options: Unpack[BulkOptions]) -> Callable[[OnChanges], OnChanges]: ...
    def change(self, *fields: str, **options: Any) -> Any:
        """For Cloud changes of these fields (`account_update`, …), and of what is not known in field `messages`
        (`user_actions`, …); none named: all. What is an event of its own in another field (calls, echoes, …) it gets as
        a change that holds that alone."""
        return self._register("change", fields, **options)

    def startup(self, function: Hook) -> Hook:
        """Called once in each worker process, before its first event: the place to open clients and pools.

        Plain or `async def`, without arguments; on the loop on which async handlers run. One that fails stops the
        worker with its error, and it is started again.
        """
        check_arguments("@handlers.startup", function)
        self.startups.append(function)
        return function

    def shutdown(self, function: Hook) -> Hook:
        """Called once in each worker process, after its last event, as `startup` is: close there what that opened."""
        check_arguments("@handlers.shutdown", function)
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
        check_arguments("@handlers.around", function, "event")
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
        check_arguments("@handlers.on_error", function, "event", "exception", "attempt")
        name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
        is_async = inspect.iscoroutinefunction(function)
        self.on_errors.append(Handler(lambda failure: function(*failure), "failure", frozenset(), is_async, name))
        return function

    def _register(
        self,
        kind: str,
        wants: tuple[Any, ...],
        ways: frozenset[str] = frozenset(),
        *,
        business: Business = None,
        rate: str | None = None,
        concurrency: int | None = None,
        bulk: int | None = None,
        linger: float | None = None,
        strict_order: bool = False,
        **unknown: object,
    ) -> Callable[[Function], Function]:
        if unknown:
            raise WrongType(f"@handlers.{kind} knows no {', '.join(unknown)}")
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
        _check_bulk(kind, bulk, linger)
        _check_order(kind, strict_order)
        numbers = _numbers(kind, business)

        def register(function: Function) -> Function:
            check_arguments(f"@handlers.{kind}", function, "event" if bulk is None else "events")
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
                bulk,
                linger or 0.0,
                handler_digest(f"{name} {sum(one.name == name for one in self._registered)}"),
                business=numbers,
                ways=ways,
                strict_order=strict_order,
            )
            self.add(handler)
            return function

        return register

    def add(self, handler: Handler) -> None:
        """Register a handler that was made otherwise."""
        handler.within(self._arounds, self._async_arounds)
        self._registered.append(handler)
        self._matching.clear()
        self.wants_profiles |= handler.kind == "profile"
        self._any_business |= bool(handler.business)
        self.any_throttled |= handler.is_throttled
        self.any_bulk |= handler.bulk is not None
        self.any_strict_order |= handler.strict_order
        self.any_destination |= handler.answers is not None

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
        return [handler for handler in self._registered if handler.is_of(kinds)]

    def matching(self, event: Event) -> tuple[tuple[Handler, ...], bool | None]:
        """The handlers of an event, profile handlers apart; and True when the single ones may need the loop, False when
        only threads, None when none of them matches it.
        """
        business = event.business if self._any_business else None
        field = None if event._envelope.in_messages else field_of(event)
        wanted = event.kind, event.subject, event._way, field, business
        found = self._matching.get(wanted)
        if found is None:
            found = self._find(wanted)
            if len(self._matching) < _SUBJECTS and sum(map(len, filter(None, wanted))) <= _LONGEST_SUBJECT:
                self._matching[wanted] = found
        return found

    def in_strict_order(self, event: Event, done: Container[bytes]) -> bool:
        """True when one of its handlers wants strict order and is not among those that are `done` (their digests)."""
        return any(one.strict_order and one.digest not in done for one in self.matching(event)[0])

    def calls(self, event: Event, matching: tuple[Handler, ...] | None = None) -> list[tuple[Handler, Event]]:
        """The handlers to call, and with what: a message may also be news of a profile, and what comes in another field
        than `messages` is a change, too. `matching`, if it is known."""
        found = self.matching(event)[0] if matching is None else matching
        calls: list[tuple[Handler, Event]] = [(handler, event) for handler in found]
        if not event._envelope.in_messages:
            change: Change | None = None
            for n, handler in enumerate(found):
                if handler.kind != event.kind and handler.by_kind is None and (change := change or as_change(event)):
                    calls[n] = handler, change
        if self.wants_profiles and isinstance(event, (Message, Change)) and (profile := event.profile) is not None:
            calls += [(handler, profile) for handler in self._of_profiles(event.business)]
        return calls

    def _of_profiles(self, business: str | None) -> list[Handler]:
        return [one for one in self.of_kinds("profile") if not one.business or business in one.business]

    def _find(self, wanted: Selector) -> tuple[tuple[Handler, ...], bool | None]:
        found = tuple(handler for handler in self._registered if handler.matches(wanted))
        has_profile = wanted[0] == Message.kind or wanted[1] == USER_ID_UPDATE
        called = (*found, *self._of_profiles(wanted[4])) if has_profile else found
        single = [handler for handler in called if handler.bulk is None]
        return found, any(handler.needs_loop for handler in single) if single else None


def _check_order(kind: str, strict_order: Any) -> None:
    if not isinstance(strict_order, bool):
        raise WrongType(f"@handlers.{kind}: strict_order={strict_order!r} is neither True nor False")
    if strict_order and kind not in _OF_CONTACTS:
        raise WrongValue(f"@handlers.{kind}: strict_order is for what contacts do: {', '.join(_OF_CONTACTS)}")


def _check_bulk(kind: str, bulk: Any, linger: Any) -> None:
    where = f"@handlers.{kind}"
    if bulk is None and linger is None:
        return
    if kind == "profile":
        raise WrongValue(f"{where}: bulk and linger are for events; news of a profile comes by itself")
    if bulk is None:
        raise WrongValue(f"{where}: linger={linger!r} needs bulk, the most events of a list")
    if isinstance(bulk, bool) or not isinstance(bulk, int):
        raise WrongType(f"{where}: bulk={bulk!r} is no whole number")
    if bulk < 1:
        raise WrongValue(f"{where}: bulk={bulk} is less than 1")
    if linger is None:
        return
    if isinstance(linger, bool) or not isinstance(linger, int | float):
        raise WrongType(f"{where}: linger={linger!r} is no number of seconds")
    if not 0 <= linger < math.inf:
        raise WrongValue(f"{where}: linger={linger} is no number of seconds, 0 or more")


def _numbers(kind: str, business: Business) -> frozenset[str]:
    if business is None:
        return frozenset()
    several = isinstance(business, Iterable) and not isinstance(business, str)
    numbers: tuple[Any, ...] = tuple(business) if several else (business,)
    if not all(isinstance(number, str) for number in numbers):
        raise WrongType(f"@handlers.{kind}: business={business!r} is no id of a business number, nor a list of them")
    if not numbers or not all(numbers):
        raise WrongValue(f"@handlers.{kind}: business={business!r} names no business number")
    return frozenset(numbers)
