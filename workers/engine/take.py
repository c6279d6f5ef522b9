"""Taking: when a worker asks for more, and what it is given."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ingest.store import keys, scripts
from ingest.store.jobs import job_template, rq_now
from ingest.store.pipelined import Call, PipelinedConnection
from ingest.store.queues import lane_of
from workers.engine.caps import Caps
from workers.engine.demand import Demand
from workers.engine.doorbell import LISTEN_SECONDS
from workers.engine.hand import Hands, Taken

KEYS = [
    keys.LEDGER,
    keys.TAKEN,
    keys.LEASES,
    keys.TAILS,
    keys.TURN,
    keys.CONTROLS,
    keys.DEATHS,
    keys.WANTED,
    keys.ALIVE,
    keys.PARKED,
    keys.PUT_OFF,
]


class Taking:
    """Of one worker, from these `queues`, by lane, the most urgent first. What it is given goes into its `hands`."""

    def __init__(
        self,
        connection: PipelinedConnection,
        worker: str,
        queues: Mapping[str, list[str]],
        demand: Demand,
        hands: Hands,
        caps: Caps,
    ) -> None:
        self._take = connection.script(scripts.lua(__file__, "take.lua"))
        self._worker = worker
        self._queues = queues
        self._demand = demand
        self._hands = hands
        self._caps = caps
        self._template = job_template()
        self._numbers = itertools.count(time.time_ns() // 1000)  # above those of any earlier process of this name
        self._not_before: dict[str, float] = {}  # queues that went to others
        self._careful = False  # a batch comes next, or is in hand, that may kill its worker: none beside it
        self._more = set(queues)  # lanes of which there may be more to take
        self._due_at = 0.0
        self._rang = False  # since the last call was sent: its answer may be from before that

    def rung(self) -> None:
        """There may be more to take."""
        self._more = set(self._queues)
        self._rang = True

    def take_from(self, queues: Iterable[str]) -> None:
        """Take from these from now on, too."""
        for queue in queues:
            if queue not in (known := self._queues[lane_of(queue)]):
                known.append(queue)
                self.rung()

    def leave_to_others(self, queue: str, until: float) -> None:
        """Take nothing of this queue until then (monotonic)."""
        self._not_before[queue] = until

    @property
    def may_end(self) -> bool:
        """True when nothing is left that could be taken now or within a second, nor was left to others: they may have
        ended. What all handlers of a lane are paused for stays where it is.
        """
        more = any(not self._demand.is_paused(lane) for lane in self._more)
        return not more and not self._not_before and not 0 < self._due_at <= time.monotonic() + 1.0

    def send(self) -> Call | None:
        """Ask for more, if that is worth it."""
        now = time.monotonic()
        for queue in [queue for queue, at in self._not_before.items() if now >= at]:
            del self._not_before[queue]
            self._more.add(lane_of(queue))
        rooms = self._rooms()
        self._demand.is_left(lane for lane in self._more if not rooms[lane])
        if not self._worth_asking(rooms):
            return None
        self._demand.asked(rooms)
        self._rang = False
        args: list[Any] = [keys.RQ, keys.WA, self._worker, self._template, rq_now()]
        args += [next(self._numbers), int(not self._hands), self._demand.put_off_parts()]
        for lane, queues in self._queues.items():
            free = [queue for queue in queues if self._may_take(queue)]
            args += [lane, rooms[lane], len(free), *free]
        return self._take.send(KEYS, args)

    def took(self, reply: Any) -> int:
        """Read what was given. Returns how many partitions other workers want of this one."""
        wait, share, careful, more, given = reply
        self._more = set(self._queues) if self._rang else {lane.decode() for lane in more}
        self._due_at = time.monotonic() + wait / 1000 if wait >= 0 else 0.0
        self._careful = careful > 0
        for queue, batch, token, records, tokens in given:
            self._caps.grant(lane_of(queue.decode()), tokens)
            self._hands.given.append(Taken(queue.decode(), batch.decode(), token.decode(), records, tokens))
        return int(share)

    def next_at(self) -> float | None:
        """When to ask again if nothing rings before (monotonic). None while there is no room."""
        rooms = self._rooms()
        if not any(rooms.values()):
            return None
        now = time.monotonic()
        return now if self._worth_asking(rooms) else self._due_at or now + LISTEN_SECONDS

    def tries(self) -> list[float]:
        """When to look again whatever rings: a handler that failed is tried, a queue may be taken from (monotonic)."""
        now = time.monotonic()
        return [*(now + wait for wait in self._demand.tries()), *self._not_before.values()]

    def _worth_asking(self, rooms: dict[str, int]) -> bool:
        if any(room and lane in self._more for lane, room in rooms.items()):
            return True
        return any(rooms.values()) and (time.monotonic() >= self._due_at > 0 or 0 in self._demand.tries())

    def _rooms(self) -> dict[str, int]:
        """How many records of each lane to take."""
        return dict.fromkeys(self._queues, 0) if self._careful and self._hands else self._demand.rooms()

    def _may_take(self, queue: str) -> bool:
        hand = self._hands.get(queue)
        return (hand is None or hand.release_at is None) and queue not in self._not_before
