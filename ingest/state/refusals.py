"""What receivers refused lately, why, and what to do about it: counted in Redis for the page, `check` and `status`.

Each receiver process adds what it counted to a hash of ten minutes. A field is the cause of a refusal, or `accepted`;
and both once more for each step of ten seconds, as `STEP|CAUSE`, so that a moment can be told in which it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from redis import Redis

from ingest.store import keys
from ingest.terminal import counted, when

SECONDS = 600
"""Length of a bucket. The one under way and the one before are read."""

STEP_SECONDS = 10

ACCEPTED = "accepted"

_MANY = 10  # in a row without the right credential: that is no stranger any more
_SHARE = 10  # one in so many

Steps = dict[int, Counter[str]]
"""What was counted in each step of ten seconds, by its number since the epoch."""


class Cause(NamedTuple):
    """Why requests are refused, and what to do: `text` follows their number. `topic`: see `ingest.troubleshooting`."""

    text: str
    remedy: str
    topic: str


_CREDENTIALS = "401-in-the-log"
_ELSEWHERE = "nothing-arrives"
_HANDSHAKE = "the-callback-could-not-be-verified"
_LIMITS = "requests-are-refused"

CAUSES = {
    "signature": Cause(
        "with a wrong signature",
        "Compare WA_APP_SECRET with the secret of the app that sends; a proxy in front must pass bodies on unchanged",
        _CREDENTIALS,
    ),
    "unsigned": Cause(
        "without a signature",
        "Have the sender sign (Turn.io, 360dialog: give the webhook a secret), or use another guard than WA_APP_SECRET",
        _CREDENTIALS,
    ),
    "credential": Cause(
        "without the right user and password", "Compare WA_BASIC_AUTH with what the sender has", _CREDENTIALS
    ),
    "header": Cause("without the right header", "Compare WA_HEADER_SECRET with what the sender has", _CREDENTIALS),
    "certificate": Cause(
        "with another client certificate", "Compare WA_TLS_CLIENT_NAME with the certificate's name", _CREDENTIALS
    ),
    "network": Cause(
        "from other networks",
        "See WA_ALLOW_NETWORKS; if a proxy is in front, name it in WA_TRUSTED_PROXIES",
        _ELSEWHERE,
    ),
    "path": Cause(
        "for another path",
        "The URL that the sender has must end with WA_PATH, and with WA_PATH_SECRET behind it if that is set",
        _ELSEWHERE,
    ),
    "method": Cause("that were neither POST nor GET", "See what the sender was told to call", _ELSEWHERE),
    "handshake": Cause(
        "to register the webhook, with a wrong token",
        "Compare WA_VERIFY_TOKEN with the token that Meta was given",
        _HANDSHAKE,
    ),
    "no_token": Cause(
        "to register the webhook, and no token is set",
        "Set WA_VERIFY_TOKEN to the token that Meta was given",
        _HANDSHAKE,
    ),
    "visit": Cause("to look at the webhook (GET)", "Senders post; a browser sees nothing there", _ELSEWHERE),
    "size": Cause("that were too large", "If they are genuine, raise WA_MAX_BODY", _LIMITS),
    "slow": Cause(
        "that did not arrive within WA_BODY_TIMEOUT", "See the network, and whether a proxy holds bodies back", _LIMITS
    ),
    "pending": Cause(
        "for want of room", "See whether Redis is slow; raise WA_MAX_PENDING, or WA_PROCESSES of the receiver", _LIMITS
    ),
}
"""By the cause of a refusal (`ingest.http.answers.Refused`). What is not named here is told elsewhere, or is no news: a
sender that goes away."""

_OF_CREDENTIALS = frozenset(name for name, cause in CAUSES.items() if cause.topic == _CREDENTIALS)
_OF_STRANGERS = frozenset({"path", "method", "visit"})


class Told(NamedTuple):
    """Refusals of one cause, as a person is told of them."""

    level: Literal["critical", "warning", "info"]
    cause: str
    text: str
    remedy: str
    topic: str
    requests: int


def note(redis: Redis, counts: Mapping[str, int]) -> None:
    """Add what a receiver process counted since the last time."""
    seconds, _ = redis.time()
    key = keys.refused_key(seconds // SECONDS)
    with redis.pipeline(transaction=False) as pipe:
        for cause, count in counts.items():
            pipe.hincrby(key, cause, count)
            pipe.hincrby(key, f"{seconds // STEP_SECONDS}|{cause}", count)
        pipe.expire(key, 3 * SECONDS)
        pipe.execute()


def buckets(now: float) -> list[str]:
    """The keys to read at that time (epoch seconds)."""
    number = int(now) // SECONDS
    return [keys.refused_key(number), keys.refused_key(number - 1)]


def parse(found: Iterable[Mapping[bytes, bytes]]) -> tuple[dict[str, int], Steps]:
    """The counts in these hashes, added up, and those of each step."""
    total, steps = Counter[str](), Steps()
    for field, count in (item for bucket in found for item in bucket.items()):
        step, _, cause = field.decode().rpartition("|")
        (steps.setdefault(int(step), Counter()) if step else total)[cause] += int(count)
    return dict(total), steps


def steps_together(each: Iterable[Steps]) -> Steps:
    """What several Redis know."""
    total = Steps()
    for step, counts in (item for steps in each for item in steps.items()):
        total.setdefault(step, Counter()).update(counts)
    return total


def told(counts: Mapping[str, int], ever: bool, steps: Steps | None = None) -> list[Told]:
    """What to tell of these, the most first. `ever`: notifications were handled here at some time.

    It is a warning when one in ten is refused. Strangers who try other paths are one only while nothing else arrives.
    When by the last `steps` nearly nobody shows the right credential any more, that is critical, whatever was accepted
    before.
    """
    accepted = counts.get(ACCEPTED, 0)
    found = list(_shut_out(steps or {}))
    for cause, count in sorted(counts.items(), key=lambda one: -one[1]):
        if cause not in CAUSES or any(one.cause == cause for one in found):
            continue
        quiet = (accepted or ever) if cause in _OF_STRANGERS else count * _SHARE < accepted
        text = f"{counted(count, 'request')} refused lately {CAUSES[cause].text}"
        level: Literal["warning", "info"] = "info" if quiet else "warning"
        found.append(Told(level, cause, text, CAUSES[cause].remedy, CAUSES[cause].topic, count))
    return found


def _shut_out(steps: Steps) -> Iterator[Told]:
    """That nearly all requests are refused for their credentials, since a step in which it was no longer otherwise."""
    refused, accepted, since = Counter[str](), 0, 0
    for step in sorted(steps, reverse=True):
        here = Counter({one: count for one, count in steps[step].items() if one in _OF_CREDENTIALS})
        if steps[step][ACCEPTED] * _SHARE > here.total():
            break
        if here:
            refused, accepted, since = refused + here, accepted + steps[step][ACCEPTED], step
    if (count := refused.total()) < _MANY:
        return
    ((cause, most),) = refused.most_common(1)
    which = "" if most == count else ", most of them"
    text = f"{count:,} of the last {count + accepted:,} requests refused{which} {CAUSES[cause].text}, "
    text += f"since {when(datetime.fromtimestamp(since * STEP_SECONDS))}"
    yield Told("critical", cause, text, CAUSES[cause].remedy, CAUSES[cause].topic, count)
