"""From the archive back into the queues, as a receiver would commit it, in the order of arrival."""

from __future__ import annotations

import heapq
import itertools
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import OutOfMemoryError

from ingest.routing import Router, home, route
from ingest.settings import Settings
from ingest.state import dead_letters
from ingest.store import append, keys, scripts
from ingest.store.append import APPEND_KEYS, BATCH_BYTES, append_arguments, append_head
from ingest.store.headers import disclose, enclose
from ingest.store.jobs import job_template
from ingest.store.queues import LANES, lane_of, queue_names
from ingest.store.records import REPLAY_BYTES, digest, pack_into
from workers.archive.files import HOUR_MS, Block, Tell, blocks, records
from workers.events import Broken, Event
from workers.events.contacts import names_of
from workers.events.parsing import parse
from workers.events.together import headers_of

PORTION = 1000
"""Records in a portion; it holds fewer when they are large, more when so many arrived in one millisecond."""

MOST_WAITING = 100
"""While so many batches wait for workers, no more are added."""

_MOST_MEMORY = 0.8  # of maxmemory; the rest is for what senders deliver meanwhile
_WAIT_SECONDS = 0.2

_BROKEN = ("unreadable", "unknown_form", "malformed")

_APPEND = scripts.lua(append.__file__, "append.lua")


class Wanted(NamedTuple):
    """Which notifications to replay, by arrival (ms, `until_ms` excluded) and by what they hold. Empty: any."""

    since_ms: int = 0
    until_ms: int = 1 << 48
    lanes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()


class Notification(NamedTuple):
    """What to handle again of a notification: all of it, or each wanted event as a body of its own. All as kept.

    `dead` are the parts that are no events and are left out, because their dead letters are still there.
    """

    received_ms: int
    bodies: list[bytes]
    dead: int = 0


class Portion(NamedTuple):
    """How many notifications a portion held, and when the last of them arrived (ms)."""

    notifications: int
    upto_ms: int


def read(
    paths: Iterable[Path],
    wanted: Wanted,
    tell: Tell,
    advance: Callable[[int], None],
    dead: Container[bytes] = frozenset(),
) -> Iterator[Notification]:
    """The wanted notifications of these files, in the order of arrival, each once.

    `advance` gets the number of bytes of each block that was read. `dead`: see `broken_letters`.
    """
    for _, group in sorted(_by_hour(paths, wanted, tell).items()):
        for received_ms, same_time in itertools.groupby(_merge(group, wanted, tell, advance), key=lambda one: one[0]):
            if not wanted.since_ms <= received_ms < wanted.until_ms:
                continue
            # What a crash left in the archive twice arrived at the same time.
            for kept in dict.fromkeys(kept for *_, kept in same_time):
                found = _wanted_of(kept, received_ms, wanted, dead)
                if found.bodies or found.dead:
                    yield found


def broken_letters(each: Iterable[Redis]) -> frozenset[bytes]:
    """The digests of bodies of which dead letters tell that they, or parts of them, are no events. To feed these back
    would make the same letters again.
    """
    wanted = dead_letters.Wanted(reasons=_BROKEN)
    return frozenset(
        letter.body_digest for redis in each for letter in dead_letters.read(redis, dead_letters.select(redis, wanted))
    )


def _by_hour(paths: Iterable[Path], wanted: Wanted, tell: Tell) -> dict[int, list[Path]]:
    """The files by the hour that they hold, not by name: restored files may have other names."""
    hours: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        first = next(blocks(path, tell), None)
        if first is not None:
            hours[first.first_ms // HOUR_MS].append(path)
    return hours


def _merge(
    paths: list[Path], wanted: Wanted, tell: Tell, advance: Callable[[int], None]
) -> Iterator[tuple[int, int, bytes]]:
    """Arrival (ms), a number, body as kept, of all blocks of these files. Memory holds what overlaps in time."""
    ahead: list[tuple[int, int, bytes]] = []
    numbers = itertools.count()  # what arrived in the same millisecond keeps the order of the file
    for block in sorted(_overlapping(paths, wanted, tell)):
        while ahead and ahead[0][0] < block.first_ms:
            yield heapq.heappop(ahead)
        for received_ms, kept in records(block, tell):
            heapq.heappush(ahead, (received_ms, next(numbers), kept))
        advance(block.length)
    while ahead:
        yield heapq.heappop(ahead)


def _overlapping(paths: list[Path], wanted: Wanted, tell: Tell) -> Iterator[Block]:
    for path in paths:
        for block in blocks(path, tell):
            if block.first_ms < wanted.until_ms and block.last_ms >= wanted.since_ms:
                yield block


def _wanted_of(kept: bytes, received_ms: int, wanted: Wanted, dead: Container[bytes]) -> Notification:
    body, headers = disclose(kept)
    if wanted.lanes and lane_of(route(body, 1)[0].queue) not in wanted.lanes:
        return Notification(received_ms, [])
    has_letters = digest(body) in dead
    if not wanted.kinds and not wanted.contacts and not has_letters:
        return Notification(received_ms, [kept])
    events = parse(body, received_ms, headers=headers)
    fitting = [event for event in events if _fits(event, wanted)]
    fed = [event for event in fitting if not (has_letters and isinstance(event, Broken))]
    bodies = [kept] if fed and len(fed) == len(events) else [_alone(event, headers) for event in fed]
    return Notification(received_ms, bodies, len(fitting) - len(fed))


def _alone(event: Event | Broken, headers: bytes) -> bytes:
    return enclose(event.body, headers) if isinstance(event, Broken) else enclose(event.body(), headers_of(event))


def _fits(event: Event | Broken, wanted: Wanted) -> bool:
    return (not wanted.kinds or event.kind in wanted.kinds) and (
        not wanted.contacts or not names_of(event).isdisjoint(wanted.contacts)
    )


def feed_back(
    each: Sequence[Redis],
    notifications: Iterable[Notification],
    settings: Settings,
    force: bool,
    wait: Callable[[str], bool],
) -> Iterator[Portion]:
    """Queue notifications in their home among `each` Redis, in portions; yields after each. A portion is written wholly
    or not at all (with several Redis: in each of them).

    With `force` they are handled even if they were handled before; each event once, however many copies are among
    them. While Redis has no room, `wait` is called with the reason again and again; when it returns False, this ends.
    """
    scripts = [redis.register_script(_APPEND) for redis in each]
    template = job_template()
    flush_ids = map("a{}-{:08x}".format, itertools.repeat(secrets.token_hex(5)), itertools.count())
    router = Router(settings.partitions, settings.business_partitions)
    replay = secrets.token_bytes(REPLAY_BYTES) if force else b""
    for portion in _portions(notifications):
        homes: dict[int, dict[str, list[bytes]]] = {}
        for received_ms, bodies, _ in portion:
            for body, headers in map(disclose, bodies):
                for place in router(body):
                    by_queue = homes.setdefault(home(place.queue, body, len(each)), {})
                    pack_into(by_queue, (place,), body, received_ms, 0, force, headers=headers, replay=replay)
        for n, by_queue in homes.items():
            head = append_head(next(flush_ids), template, settings.batch)
            args = append_arguments(head, by_queue)
            while why := _no_room(each[n], settings) or _refused(scripts[n], args):
                if not wait(why):
                    return
                time.sleep(_WAIT_SECONDS)
        yield Portion(len(portion), portion[-1].received_ms)


def _portions(notifications: Iterable[Notification]) -> Iterator[list[Notification]]:
    """Portions that never split a millisecond, so that a time says where to go on."""
    portion: list[Notification] = []
    count = size = 0
    for notification in notifications:
        full = count >= PORTION or size >= BATCH_BYTES
        if full and notification.received_ms != portion[-1].received_ms:
            yield portion
            portion, count, size = [], 0, 0
        portion.append(notification)
        count += len(notification.bodies)
        size += sum(map(len, notification.bodies))
    if portion:
        yield portion


def _no_room(redis: Redis, settings: Settings) -> str:
    """Why nothing may be added at this moment; empty when it may."""
    memory: dict[str, Any] = redis.info("memory")
    if memory.get("maxmemory", 0) and memory["used_memory"] > _MOST_MEMORY * memory["maxmemory"]:
        return "Redis is short of memory (maxmemory)"
    with redis.pipeline(transaction=False) as pipe:
        for lane in LANES:
            for queue in queue_names(lane, settings.partitions):
                pipe.llen(keys.queue_key(queue))
        waiting = sum(pipe.execute())
    return f"{waiting:,} batches wait for workers" if waiting >= MOST_WAITING else ""


def _refused(script: Any, args: list[Any]) -> str:
    try:
        script(keys=APPEND_KEYS, args=args)
    except OutOfMemoryError:
        return "Redis is short of memory (maxmemory)"
    return ""
