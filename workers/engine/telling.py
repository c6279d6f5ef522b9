"""Tells those who listen (`wa-ingest tail`) what became of events. While nobody listens, it costs a look per heartbeat.

The loop notes what ended, as much of it as the worker tells in a second; a thread of its own publishes that. What is
beyond it is counted. When Redis was away, listeners come back some seconds later than workers; until then they are told
nothing and what ended is kept for them, in the same bounds. Nothing here holds up an event.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
from redis import Redis
from redis.exceptions import RedisError

from ingest.loggers import get_logger
from ingest.state import listeners
from ingest.state.listeners import Wanted
from ingest.store import connection, keys
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.outcomes import Ended, Outcome, in_logs
from workers.engine import reaper
from workers.events import Event
from workers.events.contacts import contact_of, names_of
from workers.events.copies import identity_of, short
from workers.events.event import label_of
from workers.places import named
from workers.raised import Snooze

log = get_logger(__name__)

MOST_EVENTS = 200
"""So many events a worker tells a listener in a second at most; with a body or without, see MOST_BYTES."""

MOST_FAILURES = 50
"""And so many more of those that went wrong: among many that did not, they are what one looks for."""

MOST_BYTES = 512 * 1024

_PUBLISH_SECONDS = 0.2
_KEPT_SECONDS = 10.0
"""For so long after Redis came back, or after nobody heard, a listener is waited for."""

_GAP_SECONDS = 2 * reaper.BEAT_SECONDS  # from one look to the next; more, when Redis was away
_SHOWN = 4  # characters of a number or id at its end
_NOBODY_WORKED = "lost"  # another worker has the batch, and tells of it


class Telling:
    """Of one worker process. An event is tried so many `attempts` at most."""

    def __init__(self, redis: Redis, worker: str, dispatcher: Dispatcher, attempts: int) -> None:
        self._redis = redis
        self._worker = worker
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._told: dict[str, _Told] = {}  # by listener; replaced, never changed
        self._looked_at = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Learn who listens. To be called every few seconds, by one thread. Raises RedisError, OSError."""
        wanted, now = listeners.read(self._redis), time.monotonic()
        if now - self._looked_at > _GAP_SECONDS:
            for told in self._told.values():
                told.unheard_at = now
        self._looked_at = now
        awaited = {name: told for name, told in self._told.items() if now - told.unheard_at < _KEPT_SECONDS}
        self._told = awaited | {
            name: self._told.get(name) or _Told(self._worker, one, self._attempts) for name, one in wanted.items()
        }
        self._dispatcher.watcher = self._note if self._told else None
        if self._told and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._publish, name="telling", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tell what is left."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _note(self, event: Event, outcome: Outcome, calls: Sequence[Ended]) -> None:
        """The dispatcher calls this on its loop."""
        if outcome.name == _NOBODY_WORKED:
            return
        try:
            for told in self._told.values():
                if _fits(event, told.wanted):
                    told.note(event, outcome, calls)
        except Exception as error:  # no reason to do the event's work again
            log.error("an event cannot be told to listeners", error=named(error))

    def _publish(self) -> None:
        ends, database = False, connection.database(self._redis)
        while self._told and not ends:
            ends = self._over.wait(_PUBLISH_SECONDS)
            try:
                for name, told in self._told.items():
                    if (message := told.take()) is None:
                        continue
                    if self._redis.publish(keys.tail_channel(name, database), message):
                        told.heard()
                    else:
                        told.unheard_at = time.monotonic()
            except (RedisError, OSError) as error:  # the heartbeat says when Redis is away
                told.unheard_at = time.monotonic()
                if diagnosis := connection.config_error(error):
                    log.warning("listeners cannot be told", reason=str(diagnosis))


class _Told:
    """What a listener is told next; its first message says that this worker tells."""

    def __init__(self, worker: str, wanted: Wanted, attempts: int) -> None:
        self.wanted = wanted
        self._worker = worker
        self._attempts = attempts
        self._lock = threading.Lock()
        self._events: list[bytes] = []
        self._dropped = 0
        self._events_left, self._failures_left, self._bytes_left = MOST_EVENTS, MOST_FAILURES, MOST_BYTES
        self._renewed_at = time.monotonic()
        self._is_first = True
        self._taken: bytes | None = None  # and heard by nobody yet
        self.unheard_at = -math.inf
        """When nobody heard, or Redis came back, by the monotonic clock; long ago once somebody hears."""

    def note(self, event: Event, outcome: Outcome, calls: Sequence[Ended]) -> None:
        reserve = self._failures_left if outcome.error else 0
        if self._events_left + reserve > 0 and self._bytes_left > 0:
            is_last = event.attempt >= self._attempts
            line = orjson.dumps(described(event, outcome, calls, self.wanted, is_last))
            with self._lock:
                if len(line) <= self._bytes_left:
                    self._events.append(line)
                    if self._events_left > 0:
                        self._events_left -= 1
                    else:
                        self._failures_left -= 1
                    self._bytes_left -= len(line)
                    return
                self._bytes_left = 0  # a flood is not described only to be counted
        with self._lock:
            self._dropped += 1

    def take(self) -> bytes | None:
        """The next message, if there is something to tell: the same one until it was `heard`."""
        if self._taken is not None:
            return self._taken
        with self._lock:
            if not (self._events or self._dropped or self._is_first):
                message = None
            else:
                head = orjson.dumps({"worker": self._worker, "dropped": self._dropped})
                message = b'%b,"events":[%b]}' % (head[:-1], b",".join(self._events))
            self._events, self._dropped, self._is_first = [], 0, False
            if (now := time.monotonic()) - self._renewed_at >= 1.0:
                self._events_left, self._failures_left, self._bytes_left = MOST_EVENTS, MOST_FAILURES, MOST_BYTES
                self._renewed_at = now
        self._taken = message
        return message

    def heard(self) -> None:
        self._taken, self.unheard_at = None, -math.inf


def described(
    event: Event, outcome: Outcome, calls: Sequence[Ended], wanted: Wanted, is_last: bool = False
) -> dict[str, object]:
    """An event that has ended, for a listener. Nothing personal but what is `wanted`.

    `is_last`: one that has failed is not tried again.
    """
    contact = contact_of(event)
    found: dict[str, object] = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": event.kind,
        "type": event.subject if wanted.personal else label_of(event),
        "business": short(event.business),
        "contact": contact if wanted.personal else masked(contact),
        "handlers": sorted(call.handler.name for call in calls),
        "outcome": outcome.name,
        "error": outcome.error,
        "ms": round(sum(call.seconds for call in calls) * 1000, 1),
        "attempt": event.attempt,
        "notification": event.notification,
        "event": identity_of(event),
    }
    if is_last and outcome.name == "failed":
        found["dead"] = True
    if waiting := sorted(call.handler.name for call in calls if call.waits is not None):
        found["waits_for"] = waiting
    if failed := {call.handler.name: in_logs(call.error) for call in calls if _failed(call)}:
        found["failed"] = failed
    if wanted.personal:
        found["id"] = event.id
    if wanted.body:
        found["body"] = event.body().decode()
    return found


def _failed(call: Ended) -> bool:
    return not call.worked and call.waits is None and not isinstance(call.error, Snooze)


def masked(contact: str | None) -> str | None:
    """A number or id of which the end can be seen, if it is longer than that."""
    return contact and f"…{contact[-_SHOWN:] if len(contact) > 2 * _SHOWN - 1 else ''}"


def _fits(event: Event, wanted: Wanted) -> bool:
    return (
        (not wanted.kinds or event.kind in wanted.kinds)
        and (not wanted.types or event.subject in wanted.types)
        and (not wanted.business or event.business in wanted.business)
        and (not wanted.contacts or not names_of(event).isdisjoint(wanted.contacts))
    )
