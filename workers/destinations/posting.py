"""Posts events to a destination, and raises what its answer means."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from json.encoder import encode_basestring_ascii
from typing import Any

import aiohttp
import orjson

from workers.destinations import answers, reaching
from workers.destinations.destination import Destination
from workers.destinations.pace import Pace
from workers.events import Event
from workers.events.copies import identity_of
from workers.events.envelope import write_json
from workers.events.together import body_of, together
from workers.raised import PartialFailure, RetryIn, Snooze, Unreachable

_AGAIN_SECONDS = 1.0
"""From one try to reach a destination to the next, so that it has everything soon after its return."""

_SLOW_IN_A_ROW = 3
"""Time-outs in a row, before the destination counts as not reachable: one may be the event's."""

_NOT_ASCII = re.compile(r'[^\x00-\x7e][^"\\]*')
"""From the first character to be escaped to the end of the string, or to what is escaped already."""


def naming(notification: str, event: str, attempt: int) -> dict[str, str]:
    """The headers that tell events apart, and their tries."""
    return {"X-WA-Notification": notification, "X-WA-Event": event, "X-WA-Attempt": str(attempt)}


class Session:
    """The connections of a worker process, for all its destinations. Opened on the loop on which handlers run."""

    def __init__(self) -> None:
        self.client: aiohttp.ClientSession

    async def open(self) -> None:
        # Each destination has as many calls at a time as it may have connections; cookies are nobody's here.
        self.client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"wa-ingest/{version('wa-ingest')}", "Content-Type": "application/json"},
        )

    async def close(self) -> None:
        await self.client.close()


class Poster:
    """Posts to one destination."""

    def __init__(self, destination: Destination, session: Session, pace: Pace) -> None:
        self._to = destination
        self._session = session
        self._pace = pace
        self._key = destination.key
        self._tls = reaching.tls_of(destination)
        self._timeout = aiohttp.ClientTimeout(total=destination.timeout)
        self._slow = 0
        self.answers = Counter[str]()
        """By sort, see `ingest.state.counters`."""

    async def one(self, event: Event) -> None:
        """Post an event, in the sender's own form, as if it had been sent alone."""
        await self._post(event.body(), naming(event.notification, identity_of(event), event.attempt), 1)

    async def several(self, events: list[Event]) -> None:
        """Post a list of events in one request: a JSON array of notifications, each of which holds one of them.

        An answer that is about the list is raised for the list, so that the one at fault is found.
        """
        bodies = [event.body() for event in events]
        await self._list(events, b"[%b]" % b",".join(bodies))

    async def notifications(self, events: list[Event]) -> None:
        """Post the events of each notification together; with `bulk`, all of them in one JSON array."""
        groups: dict[str, list[Event]] = {}
        for event in events:
            groups.setdefault(event.notification, []).append(event)
        if self._to.bulk is not None:
            await self._list(events, b"[%b]" % b",".join(map(_together, groups.values())))
            return
        errors: dict[Event, BaseException] = {}
        for notification, group in groups.items():
            headers = {"X-WA-Notification": notification, "X-WA-Attempt": str(group[0].attempt)}
            try:
                await self._post(_together(group), headers, len(group))
            except Exception as error:
                errors |= dict.fromkeys(group, error)
        if errors:
            raise PartialFailure(errors)

    async def _list(self, events: list[Event], body: bytes) -> None:
        try:
            await self._post(body, {}, len(events))
        except (Snooze, RetryIn, Unreachable, answers.Answered) as error:  # no event of it is at fault
            raise PartialFailure(dict.fromkeys(events, error)) from None
        except answers.Refused as error:
            if len(events) == 1:
                raise
            raise answers.Answered(error.told, str(error)) from None

    async def _post(self, body: bytes, headers: dict[str, str], events: int) -> None:
        body = escaped(body)
        if self._key is not None:
            headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(self._key, body, hashlib.sha256).hexdigest()
        status, wait, said = await self._answer(body, {**headers, **self._to.headers})
        error = answers.meaning(status, wait, said)
        if error is None:
            self._pace.taken(events)
            return
        if isinstance(error, Snooze):
            self._pace.too_many(error.seconds)
        elif wait is not None and isinstance(error, RetryIn):
            self._pace.too_many(wait)
        raise error

    async def _answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, float | None, bytes]:
        """Status, Retry-After and the beginning of the answer. Raises Unreachable, Answered."""
        try:
            try:
                found = await self._send(body, headers)
            except aiohttp.ServerDisconnectedError:  # it had closed a connection that was kept alive
                found = await self._send(body, headers)
        except TimeoutError:
            self._slow += 1
            self.answers["slow"] += 1
            said = f"did not answer within {self._to.timeout:g} s"
            raise (Unreachable(said) if self._slow >= _SLOW_IN_A_ROW else answers.Answered(said)) from None
        except (aiohttp.ClientError, OSError) as error:
            self.answers["away"] += 1
            told = reaching.why(error, self._to.url)
            text = told if isinstance(error, OSError) else f"{told}: {error}"
            raise Unreachable(told, text, _AGAIN_SECONDS) from None
        self._slow = 0
        self.answers[answers.sort(found[0])] += 1
        return found

    async def _send(self, body: bytes, headers: dict[str, str]) -> tuple[int, float | None, bytes]:
        async with self._session.client.post(
            self._to.url, data=body, headers=headers, allow_redirects=False, ssl=self._tls, timeout=self._timeout
        ) as answer:
            said = b"" if 200 <= answer.status < 300 else await answer.content.read(answers.KEPT_BYTES)
            return answer.status, answers.retry_after(answer.headers.get("Retry-After")), said


def escaped(body: bytes) -> bytes:
    r"""JSON with `\u00e9` for é, as Meta writes it. Some check a signature by the bytes as they came, some escape them
    first because Meta's documentation says so: of ASCII both give the same."""
    if body.isascii() and b"\x7f" not in body:
        return body
    return _NOT_ASCII.sub(lambda found: encode_basestring_ascii(found[0])[1:-1], body.decode()).encode()


def _together(events: Sequence[Event]) -> bytes:
    """Events of one notification, in one notification."""
    runs = [body_of(some) for some in together(events)]
    if len(runs) == 1:
        return runs[0]
    trees: list[dict[str, Any]] = [orjson.loads(run) for run in runs]
    whole = trees[0]
    for tree in trees[1:]:
        for key, value in tree.items():
            if isinstance(value, list) and isinstance(whole.get(key), list):
                whole[key] += [item for item in value if item not in whole[key] or key == "entry"]
            else:
                whole.setdefault(key, value)
    return write_json(whole)
