"""Dead letters by cause: what they died of, without what differs from one to the next."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from ingest.state.dead_letters import DeadLetter
from ingest.store.records import iso

_EXCEPTION = re.compile(r"(?P<sort>[\w.]+(?: \([^()]+\))?): .*\((?P<place>[^()]+:\d+)\)", re.DOTALL)
_NUMBER = re.compile(r"(?<!\d)(?<!answered )\d+")  # a destination's status is no such number
_LONGEST = 100


class Cause(NamedTuple):
    """Letters of one reason, of one handler, that died of the same."""

    reason: str
    handler: str
    cause: str


class Counted(NamedTuple):
    """How many letters have a cause; the newest is `newest`, LANE/ID, of `newest_ms` (ms since the epoch)."""

    cause: Cause
    letters: int
    newest: str
    newest_ms: int

    def as_json(self) -> dict[str, Any]:
        newest = {"newest": self.newest, "newest_at": iso(self.newest_ms)}
        return {"count": self.letters} | self.cause._asdict() | newest


def count(found: Iterable[DeadLetter]) -> list[Counted]:
    """The causes of these letters, which come with the oldest first; those of most letters first."""
    counts = Counter[Cause]()
    newest: dict[Cause, DeadLetter] = {}
    for letter in found:
        cause = Cause(letter.reason, letter.handler, _cause(letter.detail))
        counts[cause] += 1
        newest[cause] = letter
    return [Counted(cause, count, newest[cause].name, newest[cause].id.ms) for cause, count in counts.most_common()]


def _cause(detail: str) -> str:
    """The exception and its place; of other details the text with N for each number."""
    if found := _EXCEPTION.fullmatch(detail):
        return f"{found['sort']} at {found['place']}"
    return _NUMBER.sub("N", detail)[:_LONGEST]
