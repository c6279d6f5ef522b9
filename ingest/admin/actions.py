"""What an operator does: pause and resume lanes, retry and drop dead letters (on the page), and listen (`tail`).

`POST /actions/…` with JSON and `Authorization: Bearer TOKEN`, one of WA_ADMIN_TOKEN. Not a cookie: another site's page
can make a browser send one, but does not know the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from ingest.admin import page
from ingest.admin.doorkeeper import WrongTokens
from ingest.admin.tail import Tail, TooMany
from ingest.http.answers import Answer, StreamedAnswer
from ingest.http.guards import any_equal
from ingest.loggers import get_logger
from ingest.settings import Settings, secrets
from ingest.state import controls, dead_letters
from ingest.state.listeners import Wanted
from ingest.store import connection

log = get_logger(__name__)

_MOST_BYTES = 4096
_BODY_SECONDS = 10.0
_HEADERS = page.HEADERS | {"Cache-Control": "no-store"}

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,19}-[0-9]{1,19}$")]
_Word = Annotated[str, StringConstraints(max_length=1000)]
_Words = tuple[_Word, ...]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Nothing(_Body):
    pass


class _Lane(_Body):
    lane: Literal["messages", "statuses", "other"]


class _DeadLetters(_Lane):
    """The dead letters of a group as the page showed it, from id `first` to `last`: later ones are not included.

    A page that was loaded before an update names no `handler`; its groups are of any.
    """

    reason: _Word
    kind: _Word
    handler: _Word | None = None
    first: _Id
    last: _Id

    def selection(self) -> dead_letters.Selection:
        first, last = (dead_letters.parse_name(f"{self.lane}/{id}")[1] for id in (self.first, self.last))
        ranges: dict[str, list[tuple[dead_letters.Id, dead_letters.Id]]] = {self.lane: [(first, last)]}
        return dead_letters.Selection(last.ms, ranges, (self.kind,), (self.reason,), owed=self.handler)


class _Wanted(_Body):
    """What somebody wants to be told, as `Wanted`."""

    kinds: _Words = ()
    types: _Words = ()
    business: _Words = ()
    contacts: _Words = ()
    body: bool = False
    personal: bool = False


class _Refusal(Exception):
    """The action is not done; the text is for the operator."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


_Form = TypeVar("_Form", bound=_Body)


class Actions:
    """Answers requests; `pages` says which."""

    def __init__(self, settings: Settings, clients: dict[str, Redis]) -> None:
        self._settings = settings
        self._each = list(clients.values())
        self._tokens = secrets(settings.admin_token)
        self._wrong_tokens = WrongTokens()
        self._one = asyncio.Lock()
        self._listening = Tail(settings)
        self._over = False

    def pages(self) -> dict[str, page.Page]:
        """The actions by path."""
        return {
            "/actions/check": self._page(self._check),
            "/actions/pause": self._page(self._pause),
            "/actions/resume": self._page(self._resume),
            "/actions/retry": self._page(self._retry),
            "/actions/drop": self._page(self._drop),
            "/actions/tail": self._page(self._tail),
        }

    def close(self) -> None:
        """Do no further portion of dead letters, and tell nobody anything more."""
        self._over = True
        self._listening.close()

    def _page(self, action: page.Page) -> page.Page:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            try:
                await self._admit(request)
                return await action(request)
            except _Refusal as refusal:
                return _json(refusal.status, {"error": str(refusal)}, refusal.headers)
            except (RedisError, OSError) as error:
                return _json(503, {"error": str(connection.diagnose(error))})

        return answer

    async def _admit(self, request: web.BaseRequest) -> None:
        if not self._tokens:
            raise _Refusal(403, "this receiver has no WA_ADMIN_TOKEN: set it to act here, or to listen")
        if page.foreign(request):  # an extra check: security rests on the token
            raise _Refusal(403, "another site's page may not act here")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not any_equal(given.strip(), self._tokens):
            if given and not await self._wrong_tokens.wait():
                raise _Refusal(429, "too many wrong tokens", {"Retry-After": "5"})
            raise _Refusal(401, "this is not the token in WA_ADMIN_TOKEN", {"WWW-Authenticate": "Bearer"})
        if request.content_type != "application/json":
            raise _Refusal(415, "send JSON, with Content-Type: application/json")

    async def _check(self, request: web.BaseRequest) -> web.StreamResponse:
        """Is the token right?"""
        await _read(request, _Nothing)
        return _json(200, {})

    async def _pause(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._steer(request, controls.pause, "lane paused on the page")

    async def _resume(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._steer(request, controls.resume, "lane resumed on the page")

    async def _steer(
        self, request: web.BaseRequest, control: Callable[[Redis, list[str]], None], event: str
    ) -> web.StreamResponse:
        lane = (await _read(request, _Lane)).lane
        for redis in self._each:
            await asyncio.to_thread(control, redis, [lane])
        log.info(event, lane=lane)
        return _json(200, {})

    async def _retry(self, request: web.BaseRequest) -> web.StreamResponse:
        letters = await _read(request, _DeadLetters)
        steps = chain.from_iterable(
            dead_letters.requeue(one, letters.selection(), self._settings) for one in self._each
        )
        return await self._change(request, letters, steps, "dead letters retried on the page")

    async def _drop(self, request: web.BaseRequest) -> web.StreamResponse:
        letters = await _read(request, _DeadLetters)
        steps = chain.from_iterable(dead_letters.drop(one, letters.selection()) for one in self._each)
        return await self._change(request, letters, steps, "dead letters dropped on the page")

    async def _tail(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = Wanted(**(await _read(request, _Wanted)).model_dump())
        response = StreamedAnswer(_HEADERS | {"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"})
        try:
            await self._listening.stream(request, response, wanted)
        except TooMany as error:
            raise _Refusal(503, str(error), {"Retry-After": "5"}) from None
        return response

    async def _change(
        self, request: web.BaseRequest, letters: _DeadLetters, steps: Iterator[int], event: str
    ) -> web.StreamResponse:
        """Go portion by portion. After each, answer a line of JSON with the count so far; the last says how it ended.

        If the client disconnects, the action goes on.
        """
        if self._one.locked():
            raise _Refusal(409, "dead letters are being retried or dropped already: wait until that has ended")
        response = StreamedAnswer(_HEADERS | {"Content-Type": "application/x-ndjson"})
        done = 0
        end: dict[str, Any] = {"ended": True}
        async with self._one:
            try:
                while (portion := await asyncio.to_thread(next, steps, None)) is not None:
                    done += portion
                    await _write_line(request, response, {"done": done})
                    if self._over:
                        end = {"error": "the receiver stops; the rest is still there"}
                        break
            except (RedisError, OSError) as error:
                if not done:
                    raise
                end = {"error": str(connection.diagnose(error))}
            finally:
                log.info(event, lane=letters.lane, reason=letters.reason, kind=letters.kind, count=done)
        await _write_line(request, response, {"done": done} | end)
        return response


async def _read(request: web.BaseRequest, form: type[_Form]) -> _Form:
    """The body, validated. Raises _Refusal."""
    size = request.content_length
    if size is None or size > _MOST_BYTES:
        raise _Refusal(411 if size is None else 413, f"send at most {_MOST_BYTES} bytes, with Content-Length")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return form.model_validate_json(await request.content.readexactly(size))
    except TimeoutError:
        raise _Refusal(408, "the body did not arrive") from None
    except asyncio.IncompleteReadError:
        raise _Refusal(400, "the body is incomplete") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _Refusal(400, f"{where}: {first['msg']}" if where else first["msg"]) from None


async def _write_line(request: web.BaseRequest, response: web.StreamResponse, line: dict[str, Any]) -> None:
    with suppress(ConnectionError):  # the client has gone
        if not response.prepared:
            await response.prepare(request)
        await response.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return Answer(status, _HEADERS | (headers or {}), body=orjson.dumps(content), content_type="application/json")
