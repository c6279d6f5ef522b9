"""What is still to be done, read from Redis: for `wa-ingest status` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from ingest.state import breakdowns, controls, failures, holds, in_work, refusals, totals
from ingest.state.breakdowns import Broken
from ingest.state.failures import Failure
from ingest.state.handlers import Handler, Lately, Owed, calls_together, figures, lately, owed_together
from ingest.state.holds import Hold
from ingest.state.in_work import ALIVE_MS, Call, Standing, Turn, Unloadable
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS
from ingest.store.queues import LANES, MESSAGES, Member, lane_of
from ingest.store.records import OWED_JOINT, iso
from ingest.terminal import counted

LATE_SECONDS = 60.0
"""What has waited for longer is late."""

YOUNG_SECONDS = 5.0
"""What has waited for less is not worth a word."""

EXPIRING_SECONDS = 2 * 86400.0
"""This long before a dead letter is removed, `wa-ingest status` and `check` warn."""

EXPIRING_COUNTED = 100
"""At most this many are counted in a lane: Redis can only count them by reading them."""

_RATE_BUCKETS = 6  # that a rate covers, the last of which still fills: nearly a minute
_MOMENT = 1.0  # seconds; a lane in which nothing waits for longer, nor more than leaves in that time, keeps up
_LOOKS = 3  # at the ledger, while batches are divided


@dataclass
class Lane:
    """One lane. Counts are notifications (`retrying`, `behind`: events), unless they say batches. Those `behind` wait
    for an event of their contact that is to be tried again (strict order).

    `oldest_seconds` is the age of the oldest that waits, in its queue or in a worker that has not called its handlers
    yet; `retrying_oldest_seconds` that of the oldest that waits for its next try, since it arrived. The first of these
    is due in `next_try_seconds`, None when there are none. Of these, `put_off` were not tried: their handler is paused,
    lags or always fails. `running`, `ready`, `turns`, `in_line` and `gathering`: where what is in work stands, see
    `Standing`; workers tell that while something takes long. `paused_since` is an ISO 8601 time; `limit` the most
    events per second that handlers get, or None.
    """

    waiting: int = 0
    batches: int = 0
    oldest_seconds: float = 0.0
    working: int = 0
    working_oldest_seconds: float = 0.0
    running: int = 0
    ready: int = 0
    turns: int = 0
    in_line: int = 0
    gathering: int = 0
    retrying: int = 0
    put_off: int = 0
    retrying_oldest_seconds: float = 0.0
    next_try_seconds: float | None = None
    behind: int = 0
    dead: int = 0
    dead_expiring: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0
    paused: bool = False
    paused_since: str | None = None
    limit: float | None = None
    without_workers: bool = False

    @property
    def seconds_to_empty(self) -> float | None:
        """At the last minute's rates, with what is in work; 0 when nothing waits for longer than a moment. None when
        paused, without workers or not shrinking, and while events are put off: these leave without being counted out.
        """
        if self.paused:
            return None
        if not self.waiting and not self.turns:
            return 0.0
        shrinking, left = self.rate_out - self.rate_in, self.waiting + self.working
        if self.without_workers or self.put_off:
            return None
        if self.oldest_seconds < _MOMENT and left <= self.rate_out * _MOMENT:
            return 0.0  # steady traffic: what the two rates differ by is chance
        return left / shrinking if shrinking > 0 else None


class Retrying(NamedTuple):
    """Events that wait for their next try: the first for `next_seconds` more, the oldest since `oldest_seconds` ago.
    `put_off`: so many were not tried, and come due in vain while their handler always fails, is paused or lags.
    """

    events: int
    next_seconds: float
    oldest_seconds: float
    put_off: int = 0


@dataclass
class Steered:
    """A handler or destination that an operator has paused or limited: since when (ISO 8601), to how many events per
    second.
    """

    handler: str
    paused_since: str | None = None
    limit: float | None = None


@dataclass
class Backlog:
    lanes: dict[str, Lane]
    workers: int
    suspended: bool
    counts: dict[str, int]
    away: tuple[str, ...] = ()
    """Of several Redis, those that do not answer. The figures add up the others."""
    idle_workers: str = ""
    """What `idle_workers` says, where it was asked."""
    newly_dead: str = ""
    """What became of the newest dead letter, if it was within the hour, where that was asked."""
    broken: list[Broken] = field(default_factory=list)
    """Handlers that always fail."""
    steered: list[Steered] = field(default_factory=list)
    """Handlers that an operator has paused or limited, by name."""
    calls: Lately = field(default_factory=dict)
    """What handlers were called with in the last minute."""
    counted_seconds: float = float(_RATE_BUCKETS * FLOW_SECONDS)
    """The time in which that was counted: less than a minute when nothing came before."""
    in_work: list[Call] = field(default_factory=list)
    """Calls of handlers that take long, the longest first: one for each lane of a worker."""
    owed: list[Owed] = field(default_factory=list)
    """What waits for handlers."""
    failed: dict[str, Failure] = field(default_factory=dict)
    """How handlers failed last, by name."""
    held_back: list[Hold] = field(default_factory=list)
    """What lets handlers get no more now, as each worker tells it."""
    unhandled: dict[str, int] = field(default_factory=dict)
    """Events that no handler wanted, by `KIND.TYPE`."""
    requests: dict[str, int] = field(default_factory=dict)
    """Lately `accepted`, or refused, by cause (`ingest.state.refusals`)."""
    request_steps: refusals.Steps = field(default_factory=dict)
    """The same in steps of ten seconds."""
    there: frozenset[str] | None = None
    """The handlers that workers have; None while that is not known."""
    unloadable: Unloadable | None = None
    """Why the last worker that was to start could not, if none has started since."""

    @property
    def refused(self) -> list[refusals.Told]:
        """What to tell of refused requests."""
        return refusals.told(self.requests, bool(self.counts), self.request_steps)

    @property
    def handlers(self) -> list[Handler]:
        """Those that were called in the last minute, are held up, or are owed something: see `figures`."""
        held = {one.handler: ("failing", one.since) for one in self.broken}
        held |= {one.handler: ("paused", one.paused_since) for one in self.steered if one.paused_since}
        held_back = holds.in_words(self.held_back)
        return figures(self.calls, self.counted_seconds, held, self.owed, self.failed, held_back, self.there)

    @property
    def retrying(self) -> Retrying | None:
        """What waits for its next try, in all lanes; None when nothing does."""
        lanes = [lane for lane in self.lanes.values() if lane.retrying]
        if not lanes:
            return None
        return Retrying(
            sum(lane.retrying for lane in lanes),
            min(lane.next_try_seconds or 0.0 for lane in lanes),
            max(lane.retrying_oldest_seconds for lane in lanes),
            sum(lane.put_off for lane in lanes) if any(one.held or one.held_back for one in self.handlers) else 0,
        )

    def as_json(self) -> dict[str, Any]:
        """The shape of `wa-ingest status --json`."""
        lanes = {n: asdict(lane) | {"seconds_to_empty": lane.seconds_to_empty} for n, lane in self.lanes.items()}
        handlers = [asdict(one) | {"owed": one.owed} for one in self.handlers]
        told = asdict(replace(self, calls={}, owed=[], failed={}, held_back=[], there=None, request_steps={})) | {
            "lanes": lanes,
            "handlers": handlers,
        }
        for by_handler in ("calls", "counted_seconds", "owed", "failed", "held_back", "there", "request_steps"):
            del told[by_handler]
        return told | {"ended": totals.ended(self.counts), "again": self.counts.get(totals.AGAIN, 0)}


def expiring(redis: Redis, dead_age: float) -> dict[str, int]:
    """Per lane the dead letters that will be removed within `EXPIRING_SECONDS`, up to `EXPIRING_COUNTED`.

    `dead_age` is how long they are kept, in seconds (WA_DEAD_AGE).
    """
    seconds, _ = redis.time()
    last = max(0, int((seconds - dead_age + EXPIRING_SECONDS) * 1000))
    with redis.pipeline(transaction=False) as pipe:
        for lane in LANES:
            pipe.xrange(keys.dead_key(lane), max=last, count=EXPIRING_COUNTED)
        return {lane: len(found) for lane, found in zip(LANES, pipe.execute(), strict=True)}


def expiring_text(counts: dict[str, int]) -> str:
    """How many dead letters will soon be removed, in words: 7, or 100 or more."""
    more = " or more" if max(counts.values()) >= EXPIRING_COUNTED else ""
    return f"{sum(counts.values()):,}{more}"


def read_all(clients: dict[str, Redis], dead_age: float | None = None) -> Backlog:
    """`read` for several Redis, by name, added up. Raises the error of the first when none answers."""
    found: list[Backlog] = []
    away: dict[str, RedisError | OSError] = {}
    for name, redis in clients.items():
        try:
            found.append(read(redis, dead_age))
        except (RedisError, OSError) as error:
            away[name] = error
    if not found:
        raise next(iter(away.values()))
    lanes = {name: _together([one.lanes[name] for one in found]) for name in LANES}
    counts = sum((Counter(one.counts) for one in found), Counter[str]())
    return Backlog(
        lanes,
        sum(one.workers for one in found),
        any(one.suspended for one in found),
        dict(counts),
        tuple(away),
        broken=list({broken.handler: broken for one in found for broken in one.broken}.values()),
        steered=_steered_together([one for each in found for one in each.steered], len(found)),
        calls=calls_together(one.calls for one in found),
        counted_seconds=max(one.counted_seconds for one in found),
        owed=owed_together(owed for one in found for owed in one.owed),
        failed=failures.together(one.failed for one in found),
        held_back=[hold for one in found for hold in one.held_back],
        in_work=sorted((call for one in found for call in one.in_work), key=lambda call: -call.seconds),
        unhandled=dict(sum((Counter(one.unhandled) for one in found), Counter[str]())),
        there=_there_together([one.there for one in found if one.workers]),
        unloadable=next((one.unloadable for one in found if one.unloadable), None),
        requests=dict(sum((Counter(one.requests) for one in found), Counter[str]())),
        request_steps=refusals.steps_together(one.request_steps for one in found),
    )


def idle_workers(clients: dict[str, Redis], partitions: int, away: Collection[str] = ()) -> str:
    """One line when more workers take messages than there are partitions, else empty. Several Redis share the
    partitions; one that is away is left out, and not asked if that is known.
    """
    workers = most = idle = 0
    for n, (name, redis) in enumerate(clients.items()):
        if name in away:
            continue
        try:
            found = _message_workers(redis)
        except (RedisError, OSError):
            continue
        here = len(range(n, partitions, len(clients)))
        workers, most, idle = workers + found, most + here, idle + max(0, found - here)
    if not idle:
        return ""
    return idle_in_words(workers, most, idle)


def idle_in_words(workers: int, partitions: int, idle: int) -> str:
    """That so many of these workers have none of the partitions, and what to do."""
    never = counted(idle, "of them never gets", "of them never get")
    return f"{workers} worker processes but {counted(partitions, 'partition')}: {never} messages; raise WA_PARTITIONS"


def _message_workers(redis: Redis) -> int:
    """How many workers that are alive take from the messages lane, by the queues that RQ keeps of each."""
    seconds, _ = redis.time()
    alive: Any = redis.zrange(keys.ALIVE, seconds * 1000 - ALIVE_MS, "+inf", byscore=True)
    with redis.pipeline(transaction=False) as pipe:
        for name in alive:
            pipe.hget(keys.rq_worker_key(name.decode()), "queues")
        return sum(bool(queues and queues.startswith(MESSAGES.encode())) for queues in pipe.execute())


def _together(lanes: list[Lane]) -> Lane:
    total = Lane()
    for one in fields(Lane):
        values = [getattr(lane, one.name) for lane in lanes]
        setattr(total, one.name, _TOGETHER.get(one.name, sum)(values))
    return total


_TOGETHER: dict[str, Callable[[list[Any]], Any]] = {
    "oldest_seconds": max,
    "working_oldest_seconds": max,
    "without_workers": all,
    "retrying_oldest_seconds": max,
    "next_try_seconds": lambda each: min((seconds for seconds in each if seconds is not None), default=None),
    "paused": any,
    "paused_since": lambda since: min(filter(None, since), default=None),
    "limit": lambda limits: None if None in limits else sum(limits),  # each Redis has its share
}
"""How a lane's figures of several Redis are combined, where that is not the sum."""


def _there_together(each: list[frozenset[str] | None]) -> frozenset[str] | None:
    """The handlers that workers of several Redis have; None when it is not known of one of these."""
    known = [one for one in each if one is not None]
    return frozenset().union(*known) if known and len(known) == len(each) else None


def _steered(now: controls.Controls) -> list[Steered]:
    return [
        Steered(name, iso(now.paused[name]) if name in now.paused else None, now.limits.get(name))
        for name in sorted({*now.paused, *now.limits})
    ]


def _steered_together(each: list[Steered], redis: int) -> list[Steered]:
    """What several Redis say of handlers. One that is limited in all of them has a share of the limit in each."""
    by_name: dict[str, list[Steered]] = {}
    for one in each:
        by_name.setdefault(one.handler, []).append(one)
    return [
        Steered(
            name,
            _TOGETHER["paused_since"]([one.paused_since for one in same]),
            _TOGETHER["limit"]([one.limit for one in same]) if len(same) == redis else None,
        )
        for name, same in sorted(by_name.items())
    ]


def span(seconds: float) -> str:
    """A time span in six characters: 59s, 12m30s, 3h05m, 6d23h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def read(redis: Redis, dead_age: float | None = None) -> Backlog:
    """The state at this moment. Cost: one command per unfinished batch, and per contact with an event for which others
    wait, in pipelines of a thousand.

    `dead_age`: see `expiring`; without it, `dead_expiring` is 0.
    """
    seconds, micros = redis.time()
    now_ms = seconds * 1000 + micros // 1000
    seen = _see(redis, now_ms)
    soon = {} if dead_age is None else expiring(redis, dead_age)
    lengths = _lengths(redis, seen)
    scheduled = _scheduled(redis, {member.queue for member in seen.ledger}, now_ms)
    behind = _behind(redis, seen.heads)
    counted_seconds = _counted_seconds(seen.flows, now_ms)
    flow = _rates(seen.flows[:_RATE_BUCKETS], counted_seconds)
    lanes = _owed(seen, scheduled, lengths, now_ms)
    owed = _owed_to_handlers(seen, lanes, scheduled, lengths, now_ms)
    for name, lane in lanes.items():
        lane.behind = behind[name]
        lane.dead, lane.dead_expiring = seen.dead[name], soon.get(name, 0)
        lane.rate_in, lane.rate_out = flow.get(f"in.{name}", 0.0), flow.get(f"out.{name}", 0.0)
        lane.limit = seen.controls.limits.get(name)
        lane.without_workers = not seen.workers
        lane.paused = name in seen.controls.paused
        lane.paused_since = iso(seen.controls.paused[name]) if lane.paused else None
    for call in seen.in_work:
        lane = lanes[call.lane]
        lane.working_oldest_seconds = max(lane.working_oldest_seconds, round(call.seconds, 3))
    return Backlog(
        lanes,
        seen.workers,
        seen.suspended,
        seen.counts,
        broken=seen.broken,
        steered=_steered(seen.handlers),
        unhandled=seen.unhandled,
        calls=lately(seen.flows[:_RATE_BUCKETS]),
        counted_seconds=counted_seconds,
        in_work=seen.in_work,
        owed=owed,
        failed=seen.failed,
        held_back=seen.held_back,
        requests=seen.requests,
        request_steps=seen.request_steps,
        there=seen.there,
        unloadable=seen.unloadable,
    )


class _Seen(NamedTuple):
    """What one pipeline reads. `ledger`: its members and when they arrived (ms). `in_hand`: since when events wait in
    workers, by lane (ms). `owed_names`: the handlers of each digest in a batch's name.
    `heads`: the batch that is next in each strict order. `flows`: the latest buckets, the newest first.
    """

    ledger: dict[Member, float]
    taken: set[Member]
    workers: int
    suspended: bool
    counts: dict[str, int]
    unhandled: dict[str, int]
    controls: controls.Controls
    handlers: controls.Controls
    broken: list[Broken]
    in_work: list[Call]
    in_hand: dict[str, float]
    turns: list[Turn]
    ready: list[Turn]
    standing: dict[str, Standing]
    there: frozenset[str] | None
    unloadable: Unloadable | None
    held_back: list[Hold]
    owed_names: dict[str, str]
    failed: dict[str, Failure]
    heads: dict[str, Member]
    dead: dict[str, int]
    requests: dict[str, int]
    request_steps: refusals.Steps
    flows: list[dict[bytes, bytes]]


def _see(redis: Redis, now_ms: int) -> _Seen:
    bucket = now_ms // 1000 // FLOW_SECONDS
    with redis.pipeline(transaction=False) as pipe:
        pipe.zrange(keys.LEDGER, 0, -1, withscores=True)
        pipe.hkeys(keys.TAKEN)
        pipe.zrange(keys.ALIVE, now_ms - ALIVE_MS, "+inf", byscore=True)
        pipe.exists(keys.RQ_SUSPENDED)
        pipe.hgetall(keys.COUNTS)
        pipe.hgetall(keys.CONTROLS)
        pipe.hgetall(keys.BREAKDOWNS)
        pipe.hgetall(keys.IN_WORK)
        pipe.hgetall(keys.HEADS)
        pipe.hgetall(keys.OWED)
        pipe.hgetall(keys.FAILURES)
        for lane in LANES:
            pipe.xlen(keys.dead_key(lane))
        requested = refusals.buckets(now_ms / 1000)
        for key in requested:
            pipe.hgetall(key)
        for back in range(_RATE_BUCKETS + 1):
            pipe.hgetall(keys.flow_key(bucket - back))
        ledger, taken, workers, suspended, counts, steering, broken, calls, heads, owed, failed, *rest = pipe.execute()
    requests, request_steps = refusals.parse(rest[len(LANES) : len(LANES) + len(requested)])
    outcomes, unhandled = totals.split({name.decode(): int(count) for name, count in counts.items()})
    return _Seen(
        ledger=_ledger(ledger),
        taken={Member.parse(member) for member in taken},
        workers=len(workers),
        suspended=bool(suspended),
        counts=outcomes,
        unhandled=unhandled,
        controls=controls.parse(steering),
        handlers=controls.of_handlers(steering),
        broken=breakdowns.parse(broken, workers),
        in_work=in_work.parse(calls, workers, now_ms / 1000),
        in_hand=in_work.parse_waits(calls, workers),
        turns=in_work.parse_turns(calls, workers),
        ready=in_work.parse_ready(calls, workers),
        standing=in_work.parse_lanes(calls, workers),
        there=in_work.parse_handlers(calls, workers),
        unloadable=in_work.parse_unloadable(calls),
        held_back=holds.parse(calls, workers),
        owed_names={digest.decode(): names.decode() for digest, names in owed.items()},
        failed=failures.parse(failed),
        heads={order.decode(): Member.parse(batch) for order, batch in heads.items()},
        dead=dict(zip(LANES, rest[: len(LANES)], strict=True)),
        requests=requests,
        request_steps=request_steps,
        flows=rest[len(LANES) + len(requested) :],
    )


def _scheduled(redis: Redis, queues: set[str], now_ms: int) -> dict[Member, float]:
    """The members of the ledger that wait until they are due, and when that is (ms), from RQ's registries of scheduled
    jobs. What is due already waits for a worker, though no take has put it into its queue yet.
    """
    with redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.zrange(keys.scheduled_key(queue), f"({now_ms / 1000}", "+inf", byscore=True, withscores=True)
        found = zip(queues, pipe.execute(), strict=True)
        return {Member(queue, job.decode()): due * 1000 for queue, jobs in found for job, due in jobs}


def _lengths(redis: Redis, seen: _Seen) -> dict[Member, int]:
    """How many records each batch has. One that is gone by now was settled, or divided: then others have its records,
    so the ledger is read again, and what is new in it counts, too.
    """
    found: dict[Member, int] = {}
    for _ in range(_LOOKS):
        fresh = [member for member in seen.ledger if member not in found]
        found |= zip(fresh, _llen(redis, [keys.batch_key(member.batch) for member in fresh]), strict=True)
        if all(found[member] for member in fresh):
            break
        with redis.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.LEDGER, 0, -1, withscores=True)
            pipe.hkeys(keys.TAKEN)
            ledger, taken = pipe.execute()
        seen.ledger.update(_ledger(ledger))
        seen.taken.update(map(Member.parse, taken))
    return found


def _ledger(members: list[tuple[bytes, float]]) -> dict[Member, float]:
    return {Member.parse(member): arrived_ms for member, arrived_ms in members}


def _behind(redis: Redis, heads: dict[str, Member]) -> Counter[str]:
    """How many events wait behind another one, by lane."""
    found = Counter[str]()
    for head, count in zip(heads.values(), _llen(redis, list(map(keys.behind_key, heads))), strict=True):
        found[lane_of(head.queue)] += count
    return found


def _llen(redis: Redis, names: list[str]) -> list[int]:
    """The lengths of these lists."""
    lengths: list[int] = []
    for start in range(0, len(names), 1000):
        with redis.pipeline(transaction=False) as pipe:
            for name in names[start : start + 1000]:
                pipe.llen(name)
            lengths += pipe.execute()
    return lengths


def _owed(seen: _Seen, scheduled: dict[Member, float], lengths: dict[Member, int], now_ms: int) -> dict[str, Lane]:
    """The lanes, with their waiting, working and retrying figures."""

    def age(since_ms: float) -> float:
        return round((now_ms - since_ms) / 1000, 3)

    lanes = {name: Lane() for name in LANES}
    for member, length in lengths.items():
        lane = lanes[lane_of(member.queue)]
        if member in seen.taken:
            lane.working += length
        elif member in scheduled:
            lane.retrying += length
            lane.put_off += length if member.is_put_off else 0
            lane.retrying_oldest_seconds = max(lane.retrying_oldest_seconds, age(seen.ledger[member]))
            due = -age(scheduled[member])
            lane.next_try_seconds = due if lane.next_try_seconds is None else min(due, lane.next_try_seconds)
        else:
            lane.waiting += length
            lane.batches += 1
            since = max(seen.ledger[member], member.due_ms(now_ms))
            lane.oldest_seconds = max(lane.oldest_seconds, age(since))
    # Workers told this with their last heartbeat: what is not in work by now has ended.
    for name, standing in seen.standing.items():
        left = lanes[name].working
        for place, count in standing._asdict().items():
            setattr(lanes[name], place, min(count, left))
            left -= min(count, left)
    for name, since in seen.in_hand.items():
        if lanes[name].working:
            lanes[name].oldest_seconds = max(lanes[name].oldest_seconds, age(since))
    for turn in seen.turns:
        if lanes[turn.lane].working and turn.first_try_ms is not None:
            lanes[turn.lane].oldest_seconds = max(lanes[turn.lane].oldest_seconds, age(turn.first_try_ms))
    return lanes


def _owed_to_handlers(
    seen: _Seen, lanes: dict[str, Lane], scheduled: dict[Member, float], lengths: dict[Member, int], now_ms: int
) -> list[Owed]:
    """What waits for each handler in each lane. What comes again and is in a worker's hands counts only as far as that
    worker tells it; and what it told has ended where nothing is in work any more.
    """
    inside = [*((turn, turn.events, 0) for turn in seen.turns), *((turn, 0, turn.events) for turn in seen.ready)]
    found = [
        Owed(turn.handler, turn.lane, 0, turns, round((now_ms - turn.arrived_ms) / 1000, 3), ready=ready)
        for turn, turns, ready in inside
        if lanes[turn.lane].working
    ]
    for member, length in lengths.items():
        if member not in seen.taken and (names := seen.owed_names.get(member.owed)):
            age = round((now_ms - seen.ledger[member]) / 1000, 3)
            retrying, due = (length, 0) if member in scheduled else (0, length)
            lane = lane_of(member.queue)
            found += [Owed(name, lane, retrying, 0, age, due) for name in names.split(OWED_JOINT)]
    return owed_together(found)


def _counted_seconds(flows: list[dict[bytes, bytes]], now_ms: int) -> float:
    """Since the oldest of the buckets began in which something was counted; a second at least. The one before them says
    that something was counted before: else a burst would seem faster the older it is.
    """
    oldest = max((back for back, flow in enumerate(flows) if flow), default=0)
    return min(oldest, _RATE_BUCKETS - 1) * FLOW_SECONDS + max(1.0, now_ms / 1000 % FLOW_SECONDS)


def _rates(flows: list[dict[bytes, bytes]], seconds: float) -> dict[str, float]:
    """Notifications per second, by `in.LANE` and `out.LANE`."""
    counts = Counter[str]()
    for flow in flows:
        counts.update({way.decode(): int(count) for way, count in flow.items() if b"|" not in way})
    return {way: count / seconds for way, count in counts.items()}
