"""One handler: a registered function, and the events that it is called with."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass
from typing import Any, Protocol

from ingest.state.holds import Hold

Selector = tuple[str, str | None, str, str | None, str | None]
"""What handlers are found by: kind, subject, way (see `Event._way`), field and business number of an event."""


class Paced(Protocol):
    """Lets calls begin, in this process: `wait` says in how many seconds one may; `begin` is told of each. `holds_up`:
    one had to wait at the last look; `hold`: what for. Any thread may ask these two.
    """

    @property
    def holds_up(self) -> bool: ...
    def hold(self, handler: str) -> Hold | None: ...
    def wait(self) -> float: ...
    def begin(self, events: int = 1) -> None: ...


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
    """Calls per second at most, over all workers of one Redis; with `bulk`: events per second."""
    concurrency: int | None = None
    """Calls in flight at a time at most, in one worker process."""
    bulk: int | None = None
    """It is called with lists of so many events at most; None: with one event."""
    linger: float = 0.0
    """Seconds for which an event waits for company at most."""
    digest: bytes = b""
    """Of the name, and of how many were registered with it before: a retry remembers by it that this one is done."""
    call: Callable[[Any], Any] = None  # type: ignore[assignment]  # see __post_init__
    """What is called: the function, within the plain context managers of `Handlers.around`."""
    arounds: tuple[Callable[[Any], AbstractAsyncContextManager[object]], ...] = ()
    """The `async` ones: `call` is called within these, too."""
    business: frozenset[str] = frozenset()
    """Ids of business numbers; empty: all."""
    ways: frozenset[str] = frozenset()
    """Of a message: `in`, `out`, and the same of the history (see `Event._way`)."""
    by_kind: Mapping[str, frozenset[str]] | None = None
    """Of a destination: the kinds of event that it gets, and of each the types, statuses or fields; empty: all."""
    pace: Paced | None = None
    """What lets calls begin besides `rate` and `concurrency`."""
    answers: Counter[str] | None = None
    """Of a destination: its answers by sort (`ingest.state.counters`), until they are counted."""
    strict_order: bool = False
    """True when a contact's later events wait while an earlier one is to be tried again."""

    def __post_init__(self) -> None:
        self.call = self.function

    def matches(self, selector: Selector) -> bool:
        """Whether it is called with the events that have this selector."""
        kind, subject, way, field, business = selector
        if self.business and business not in self.business:
            return False
        if self.by_kind is not None:
            wants = self.by_kind.get(kind)
            return wants is not None and (not wants or subject in wants)
        if self.kind == "change" and kind != "change":  # it gets a change with that event alone
            return field is not None and (not self.wants or field in self.wants)
        return self.kind == kind and (not self.wants or subject in self.wants) and (not self.ways or way in self.ways)

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
        return self.rate is not None or self.concurrency is not None or self.pace is not None

    def is_of(self, kinds: Collection[str]) -> bool:
        """True when it is called with events of one of these kinds."""
        return self.kind in kinds if self.by_kind is None else not self.by_kind.keys().isdisjoint(kinds)


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
