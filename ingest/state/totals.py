"""What has become of everything since the counters began, in words: whether anything was lost.

Events are counted as they end, once each. Those that had ended when their worker died come again with their batch, as
copies: so many are taken off the copies, and told apart. Dead letters that were requeued have not ended after all: so
many are taken off, too. What has not ended lies in Redis and is counted as it lies there, as notifications. So there is
no sum of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ingest.terminal import counted

if TYPE_CHECKING:
    from ingest.state.backlog import Backlog

BY_TYPE = "type"
"""Unhandled events are counted once more as `type.KIND.TYPE`."""

OTHER_TYPE = "other"
"""All types that are not known, so that what a sender invents takes up no room."""

AGAIN = "again"
"""Counted when a batch goes back from a worker that died or stopped: so many of its events had ended, and come again
as duplicates.
"""

REQUEUED = "requeued"
"""Counted when dead letters are handled again: so many of those that were counted as dead are no more."""

REMOVED = "removed"
"""Dead letters that were dropped, or removed because of their age."""

_DEAD = "dead"

_COPY = "duplicate"
_GO_ON = {"retried", "snoozed", AGAIN, REQUEUED, REMOVED}  # these events have not ended
_TYPES = 5  # that are told at most


def ended(counts: Mapping[str, int]) -> dict[str, int]:
    """How many events have ended, by outcome, the most frequent first. `counts` is by `OUTCOME.KIND`."""
    found = Counter[str]()
    for name, count in counts.items():
        outcome = name.partition(".")[0]
        if outcome not in _GO_ON:
            found[outcome] += count
    if _COPY in found:
        found[_COPY] = max(0, found[_COPY] - counts.get(AGAIN, 0))
    if _DEAD in found:
        found[_DEAD] = max(0, found[_DEAD] - counts.get(REQUEUED, 0))
    return {outcome: count for outcome, count in found.most_common() if count}


def split(counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """What is counted by `OUTCOME.KIND`, and the events that no handler wanted, by `KIND.TYPE`."""
    prefix = f"{BY_TYPE}."
    types = {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
    return {name: count for name, count in counts.items() if not name.startswith(prefix)}, types


def lines(now: Backlog) -> list[str]:
    """One for what has ended, one for what has not, and one for what no handler wanted. None before the first event."""
    if not (by_outcome := ended(now.counts)):
        return []
    removed = min(now.counts.get(REMOVED, 0), by_outcome.get(_DEAD, 0))
    about = {_DEAD: f" ({removed:,} of them removed)"} if removed else {}
    parts = " + ".join(f"{count:,} {outcome}{about.get(outcome, '')}" for outcome, count in by_outcome.items())
    found = [f"events ended so far: {sum(by_outcome.values()):,} = {parts}", f"not ended yet: {_not_ended(now)}"]
    if again := now.counts.get(AGAIN):
        found[0] += f"; {again:,} of them came again after a worker died"
    if now.unhandled:
        most = Counter(now.unhandled).most_common(_TYPES)
        told = [f"{name.replace('.', ' ')} {count:,}" for name, count in most]
        told += [counted(left, "more type")] if (left := len(now.unhandled) - len(most)) else []
        found.append(f"no handler wanted: {', '.join(told)}")
    return found


def _not_ended(now: Backlog) -> str:
    lanes = now.lanes.values()
    figures = {
        "waiting": sum(lane.waiting for lane in lanes),
        "in work": sum(lane.working for lane in lanes),
        "retrying": sum(lane.retrying for lane in lanes),
        "behind another of their contact that waits": sum(lane.behind for lane in lanes),
    }
    return ", ".join(f"{count:,} {where}" for where, count in figures.items() if count) or "nothing"
