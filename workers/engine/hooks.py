"""Hooks around a batch's events while they are dispatched, one idea per class.

Each is an `Account` that wraps another one, and passes on what does not concern it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.dispatch.dispatcher import Account, Outcome
from workers.dispatch.event_context import EventContext
from workers.dispatch.rate_limits import Granted
from workers.engine.batch_state import BatchState
from workers.events import Event, Status

SETTLE_SECONDS = 0.5
"""How often a long batch settles what it has done, so that a kill repeats little and more urgent work gets its turn."""

SUPERSEDED = Outcome("superseded")


class InContext:
    """Log lines and spans name the event in work. The innermost account: it notes in the batch how each event ended."""

    def __init__(self, opened: BatchState, context: EventContext) -> None:
        self._opened = opened
        self._context = context
        self.admit: Callable[[Event], Outcome | None] = context.begin
        self.put_off = context.leave

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        self._context.end(outcome)
        self._opened.finish(index, event, outcome, now)

    def tick(self, now: float) -> None:
        pass

    def halted(self) -> bool:
        return False


class Capped:
    """A capped lane keeps to its rate: no event begins that the batch's allowance does not cover."""

    def __init__(self, account: Account, opened: BatchState, exchange: Callable[[BatchState], Granted]) -> None:
        self._account = account
        self._opened = opened
        self._exchange = exchange
        self._more_at = 0.0
        self.finish = account.finish
        self.tick = account.tick

    def admit(self, event: Event) -> Outcome | None:
        if self._opened.allowance is not None:
            self._opened.allowance -= 1
        return self._account.admit(event)

    def put_off(self) -> None:
        self._account.put_off()
        if self._opened.allowance is not None:
            self._opened.allowance += 1

    def halted(self) -> bool:
        return self._account.halted() or (self._opened.allowance == 0 and not self._ask_for_more())

    def renew(self) -> None:
        """Exchange unused tokens: old ones would come on top of what other workers get now."""
        if self._opened.allowance:
            self._ask_for_more()

    def _ask_for_more(self) -> bool:
        """Give back what is left of the allowance and take what there is now."""
        now = time.monotonic()
        if now >= self._more_at:
            self._opened.allowance, wait = self._exchange(self._opened)
            self._more_at = now + wait
        return self._opened.allowance != 0


class StatusOrder:
    """WA_STATUS_ORDER: a status that comes after a later stage of its message is marked, or dropped."""

    def __init__(self, account: Account, opened: BatchState, drops: bool) -> None:
        self._account = account
        self._opened = opened
        self._drops = drops
        self.put_off = account.put_off
        self.finish = account.finish
        self.tick = account.tick
        self.halted = account.halted

    def admit(self, event: Event) -> Outcome | None:
        if isinstance(event, Status) and self._opened.is_superseded(event):
            event.superseded = True
            if self._drops:
                return SUPERSEDED
        return self._account.admit(event)


class Settling:
    """Settles what is done from time to time, and halts when a more urgent lane waits or this lane has to wait.

    `settle` returns the reply of settle.lua. `settled` is called afterwards if the batch goes on.
    """

    def __init__(self, account: Account, settle: Callable[[], str], settled: Callable[[], None] | None) -> None:
        self._account = account
        self._settle = settle
        self._settled = settled
        self._settled_at = time.monotonic()
        self._halted = False
        self.admit = account.admit
        self.put_off = account.put_off
        self.finish = account.finish

    def settle(self) -> None:
        """Settle now."""
        self._halted |= self._settle() in ("yield", "wait")
        self._settled_at = time.monotonic()
        if self._settled and not self._halted:
            self._settled()

    def tick(self, now: float) -> None:
        if not self._halted and now - self._settled_at >= SETTLE_SECONDS:
            self.settle()

    def halted(self) -> bool:
        return self._halted or self._account.halted()
