"""What a replay would feed back, and how much of it workers would drop as copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from redis import Redis

from ingest.store.headers import disclose
from ingest.terminal import counted
from workers.archive.replay import Notification
from workers.engine import claims
from workers.events import Event
from workers.events.parsing import parse

_AT_ONCE = 200  # notifications whose events Redis is asked about together


class Matched(NamedTuple):
    """How many notifications match. `copies` are those of which Redis remembers every event, None when it was not
    asked, because all are to be handled again; `dead` are parts that are left out (see `Notification`).
    """

    notifications: int
    copies: int | None
    dead: int

    def remarks(self) -> Iterator[str]:
        """What a person has to know beside the number."""
        if self.copies:
            yield (
                f"{counted(self.copies, 'of them was', 'of them were')} handled before: workers drop what was handled "
                "within WA_DEDUP_WINDOW; --again has it handled again"
            )
        if self.dead:
            is_out = "that is no event is left out, because it is a dead letter"
            are_out = "that are no events are left out, because they are dead letters"
            yield f"{counted(self.dead, is_out, are_out)}: see `wa-ingest dead list`, and `dead retry`"


def count(found: Iterable[Notification], each: Sequence[Redis]) -> Matched:
    """Count what matches; `each` are the Redis to ask what they remember, none: do not ask."""
    notifications = copies = dead = 0
    rest = iter(found)
    while chunk := list(itertools.islice(rest, _AT_ONCE)):
        fed = [one for one in chunk if one.bodies]
        notifications += len(fed)
        dead += sum(one.dead for one in chunk)
        copies += _copies(fed, each) if each else 0
    return Matched(notifications, copies if each else None, dead)


def _copies(fed: Sequence[Notification], each: Sequence[Redis]) -> int:
    asked = [list(_claims(one)) for one in fed]
    flat = [claim for some in asked for claim in some if claim is not None]
    known = [any(answers) for answers in zip(*(claims.remembered(redis, flat) for redis in each), strict=True)]
    answers = iter(known)
    remembered = [[claim is not None and next(answers) for claim in some] for some in asked]
    return sum(bool(one) and all(one) for one in remembered)


def _claims(one: Notification) -> Iterator[claims.Claim | None]:
    """Of each event its claim, None of what is no event."""
    for kept in one.bodies:
        body, headers = disclose(kept)
        for item in parse(body, one.received_ms, headers=headers):
            yield claims.of(item) if isinstance(item, Event) else None
