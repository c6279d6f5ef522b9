"""How an event ended, and how a failure is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from workers.handler import Handler
from workers.places import named, place, sort
from workers.raised import DestinationError, Discard, Reject, RetryIn, Snooze

GRACE_SECONDS = 3.0
"""A call that does not end this long after it was interrupted counts as failed, and what it runs in is replaced."""


class HandlerTimeout(BaseException):
    """Raised inside a handler when its time is over.

    No Exception and no TimeoutError, so that neither a handler nor a library takes it for the time-out of its own call.
    """


class Outcome(NamedTuple):
    """What became of an event.

    `name`: handled, unhandled, discarded, rejected, failed; fault: this program itself failed at it; or, when it waits
    without using up a try, snoozed, as a handler of it asked, or put_off: a handler of it always fails. `detail` may
    quote the event: it goes to the dead letter, and to a log only as WA_LOG_ERRORS=full asks for it; `error` and
    `handler` may be logged. `delay` is what RetryIn or Snooze asked for, or for how long the event is put off, in
    seconds; `at_least` is what another handler of a failed event asked for with Snooze. `done` are the handlers that
    need not be called again (their digests), `owed` the names of all others. `raised` is the exception. With
    `holds_up`, later events of its strict order wait until it is done; they end as `behind`. `apart`, of a failed event
    of which others have to be called, too: what it is for the handlers that failed alone, and for these alone.
    """

    name: str
    detail: str = ""
    error: str = ""
    handler: str = ""
    delay: float | None = None
    at_least: float = 0.0
    done: tuple[bytes, ...] = ()
    owed: tuple[str, ...] = ()
    raised: BaseException | None = None
    holds_up: bool = False
    apart: tuple[Outcome, ...] = ()

    @property
    def happened(self) -> bool:
        """True when nothing is left to do: it was handled or discarded, or no handler matched."""
        return self.name in ("handled", "unhandled", "discarded")

    @property
    def comes_again(self) -> bool:
        """True when the event is tried again, unless it is too old or was tried too often."""
        return self.name in ("failed", "snoozed", "put_off")


HANDLED = Outcome("handled")
UNHANDLED = Outcome("unhandled")
BEHIND = Outcome("behind")


NOT_BEGUN = 0.0
"""Seconds for which a call waits that was not made because the worker stops."""


LAGS = 0.5
"""Seconds for which a call waits whose handler works, but has more to do than it may begin. Broken ones wait longer."""


class Ended(NamedTuple):
    """One call of a handler: how long it took, and what it raised. `waits`: it was not called, for so many seconds."""

    handler: Handler
    seconds: float = 0.0
    error: BaseException | None = None
    waits: float | None = None

    @property
    def worked(self) -> bool:
        """False when it has to be called again."""
        return self.waits is None and (self.error is None or isinstance(self.error, Discard))

    @property
    def broke(self) -> bool:
        """True for a failure that the handler did not decide on."""
        return self.error is not None and not decided(self.error)


def decided(error: BaseException) -> bool:
    """True for what a handler raises to say what is to become of the event."""
    return isinstance(error, Discard | Reject | RetryIn | Snooze)


def of_event(ended: Iterable[Ended], before: frozenset[bytes]) -> Outcome:
    """The outcome of an event, from the calls of its handlers. `before`: those that had ended in an earlier try."""
    calls = list(ended)
    left = [call for call in calls if not call.worked]
    if not left:
        dropped = next((call for call in calls if call.error is not None), None)
        return HANDLED if dropped is None else Outcome("discarded", _text(dropped.error), handler=dropped.handler.name)
    done = (*before, *(call.handler.digest for call in calls if call.worked))
    owed = tuple(dict.fromkeys(call.handler.name for call in left))
    failed = [call for call in left if call.error is not None and not isinstance(call.error, Reject | Snooze)]
    snoozed = {call.error.seconds: call.handler.name for call in left if isinstance(call.error, Snooze)}
    if failed:
        outcome = _of_failure(failed[0].handler.name, failed[0].error)
        # When one of them asked for a time and another did not, the usual time fits both.
        asked = [call.error.seconds for call in failed if isinstance(call.error, RetryIn)]
        delay = min(asked) if len(asked) == len(failed) else None
        outcome = outcome._replace(delay=delay, at_least=max(snoozed, default=0.0), done=done, owed=owed)
        others = [call for call in left if call.waits is not None or isinstance(call.error, Snooze)]
        return outcome._replace(apart=_apart(outcome, failed, others)) if others else outcome
    waits = [call.waits for call in left if call.waits is not None]
    if snoozed:
        longest = max(snoozed)
        detail = f"asked to wait {longest:g} s"
        delay = max(longest, *waits, 0.0)
        return Outcome("snoozed", detail, handler=snoozed[longest], delay=delay, done=done, owed=owed)
    if waits:
        return Outcome("put_off", handler=left[0].handler.name, delay=max(waits), done=done, owed=owed)
    error = left[0].error
    told = error.told if isinstance(error, DestinationError) else ""
    return Outcome("rejected", _text(error), told, left[0].handler.name, done=done, owed=owed)


def _apart(outcome: Outcome, failed: list[Ended], others: list[Ended]) -> tuple[Outcome, Outcome]:
    """See `Outcome.apart`."""
    owed = tuple(dict.fromkeys(call.handler.name for call in failed))
    alone = outcome._replace(owed=owed, done=(*outcome.done, *(call.handler.digest for call in others)))
    return alone, of_event(others, frozenset((*outcome.done, *(call.handler.digest for call in failed))))


def of_fault(error: BaseException, what: str) -> Outcome:
    """The outcome of an event at which this program itself failed, while it did `what`. That event alone ends so."""
    where = named(error)
    return Outcome("fault", f"{where}, {what}", where, raised=error)


def in_logs(error: BaseException | None) -> str:
    """What logs may say of a failure: the exception and where it came from, or what a destination did."""
    return error.told if isinstance(error, DestinationError) else named(error)


def _of_failure(name: str, error: BaseException | None) -> Outcome:
    if isinstance(error, DestinationError):
        # Where our own code raised it says nothing.
        return Outcome("failed", _text(error), error.told, name, raised=error.with_traceback(None))
    if isinstance(error, RetryIn):
        return Outcome("failed", f"asked for a retry in {error.seconds:g} s", "RetryIn", name)
    where = place(error)
    detail = f"{sort(error)}: {_text(error)}" + (f" ({where})" if where else "")
    return Outcome("failed", detail, in_logs(error), name, raised=error)


def _text(error: BaseException | None) -> str:
    """What an exception says, as Redis can keep it; a class of the user's may say nothing, or half a character."""
    try:
        return str(error).encode("utf-8", "replace").decode()
    except Exception as broken:
        return f"(its text raises {type(broken).__name__})"
