"""Notifications as the two senders write them, with events that can be recognised again.

The n-th message and the n-th status always belong to the same contact. Ids are made from these numbers, so a check
needs to remember only numbers.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import orjson

from workers.simulator import elements
from workers.simulator.delays import Form

MESSAGES, STATUSES, ERRORS = KINDS = ("messages", "statuses", "errors")

MIX: Mapping[str, float] = {MESSAGES: 1.0, STATUSES: 3.0, ERRORS: 0.01}
"""Shares of the notifications: three statuses for each message that the business sends, and one that comes in."""

STAGES = ("sent", "delivered", "read")

# Messages of the business that are on their way at a time: all of them are sent, then all delivered, then all read.
_ON_THEIR_WAY = 16

_ID = re.compile(r"sim\.([0-9a-f]{8})\.([0-9]{1,8})\.(o?)([0-9]{1,12})", re.ASCII)
_RUN = re.compile(r"[0-9a-f]{8}", re.ASCII)


class Notification(NamedTuple):
    """One body to post. Its updates are numbers `first` to `first + updates - 1` of their kind."""

    body: bytes
    kind: str = ""
    first: int = 0
    updates: int = 1


@dataclass(frozen=True)
class Content:
    """What notifications hold. ValueError for what no sender would do.

    `mix` gives weights to the kinds messages, statuses and errors. `contacts` different contacts write and are written
    to, one after another. `batch` updates of the same kind go into one notification, at most 1,000 as the Cloud API
    documents (an error goes alone). `run` marks the ids, eight hexadecimal digits; `seed` chooses types and texts.
    """

    form: Form = "cloud"
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)
    contacts: int = 1000
    batch: int = 1
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    seed: int = 0

    def __post_init__(self) -> None:
        if not set(self.mix) <= set(KINDS) or any(not 0 <= w < 1e9 for w in self.mix.values()):
            raise ValueError("the mix gives weights, 0 or more, to messages, statuses and errors")
        if not sum(self.mix.values()) > 0:
            raise ValueError("the mix has no weight above 0")
        if not 1 <= self.contacts <= 10_000_000:
            raise ValueError("there must be 1 to 10,000,000 contacts")
        if not 1 <= self.batch <= 1000:
            raise ValueError("there may be 1 to 1,000 updates in a notification")
        if not _RUN.fullmatch(self.run):
            raise ValueError("the run is eight hexadecimal digits")

    def notifications(self) -> Iterator[Notification]:
        """Notifications without end, each made when it is asked for."""
        random = Random(self.seed)  # noqa: S311 - texts and types, no secrets
        kinds, weights = tuple(self.mix), tuple(self.mix.values())
        made = dict.fromkeys(KINDS, 0)
        write = _write_cloud if self.form == "cloud" else orjson.dumps
        while True:
            (kind,) = random.choices(kinds, weights)
            first, updates = made[kind], 1 if kind == ERRORS else self.batch
            made[kind] += updates
            value = self._value(kind, range(first, first + updates), random)
            yield Notification(write(value), kind, first, updates)

    def _value(self, kind: str, numbers: range, random: Random) -> dict[str, Any]:
        now = str(int(time.time()))
        if kind == ERRORS:
            return {ERRORS: [elements.error(self.form, random)]}
        if kind == STATUSES:
            return {STATUSES: [self._status(n, now) for n in numbers]}
        writers = dict.fromkeys(n % self.contacts for n in numbers)
        return {
            "contacts": [elements.contact(self.form, who) for who in writers],
            MESSAGES: [self._message(n, now, random) for n in numbers],
        }

    def _message(self, n: int, now: str, random: Random) -> dict[str, Any]:
        sequence, contact = divmod(n, self.contacts)
        id = f"sim.{self.run}.{contact}.{sequence}"
        return elements.message(self.form, contact, id, now, random, is_text=n == 0)  # who posts one wants an answer

    def _status(self, n: int, now: str) -> dict[str, Any]:
        outgoing, stage = outgoing_of(n)
        sequence, contact = divmod(outgoing, self.contacts)
        return elements.status(self.form, contact, f"sim.{self.run}.{contact}.o{sequence}", STAGES[stage], now)


class Known(NamedTuple):
    """What the id of one of our events says. `outgoing`: of a message of the business, that is, of a status."""

    run: str
    contact: int
    outgoing: bool
    sequence: int


def recognise(id: str | None) -> Known | None:
    """None for the id of an event that is not ours."""
    found = _ID.fullmatch(id or "")
    return found and Known(found[1], int(found[2]), found[3] == "o", int(found[4]))


def outgoing_of(status: int) -> tuple[int, int]:
    """The number of the message that the n-th status is of, and its stage."""
    round_, place = divmod(status, _ON_THEIR_WAY * len(STAGES))
    stage, message = divmod(place, _ON_THEIR_WAY)
    return round_ * _ON_THEIR_WAY + message, stage


def status_of(outgoing: int, stage: int) -> int:
    """The reverse of `outgoing_of`."""
    round_, message = divmod(outgoing, _ON_THEIR_WAY)
    return (round_ * len(STAGES) + stage) * _ON_THEIR_WAY + message


def _write_cloud(value: dict[str, Any]) -> bytes:
    """In the Cloud envelope, escaped as Meta does: its signature is made over these bytes."""
    whole = {"messaging_product": "whatsapp", "metadata": elements.METADATA, **value}
    entry = {"id": elements.ACCOUNT, "changes": [{"value": whole, "field": "messages"}]}
    body = {"object": "whatsapp_business_account", "entry": [entry]}
    return json.dumps(body, separators=(",", ":")).replace("/", r"\/").encode()
