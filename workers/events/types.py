"""The typed events that handlers get, and what cannot become one.

An event costs next to nothing until it is read: it keeps the parsed element, the notification around it, and
no copies. Every property reads from `raw` when asked. What the sender left out, or sent in a JSON type that
makes no sense there, is None; reading never raises. Treat `raw` as read-only: a retry is written from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from ingest.routing import contact_of
from ingest.store.records import digest, notification_id
from workers.events.values import (
    EPOCH,
    Conversation,
    Envelope,
    Fault,
    JsonObject,
    Media,
    Pricing,
    error_details,
    flag,
    moment,
    number,
    phone,
    table,
    tables,
    text,
)

_MEDIA = frozenset({"image", "video", "audio", "voice", "document", "sticker"})

# What may stand in a repr: a word such as `text` or `failed`, or a code. A sender that puts a name or a
# number there by mistake is not quoted.
_PLAIN = re.compile(r"[A-Za-z_]{1,64}|[0-9]{1,7}")

_PROFILE_CHANGES = {
    "user_changed_number": "number",
    "customer_changed_number": "number",
    "user_changed_user_id": "user_id",
    "user_identity_changed": "identity",
    "customer_identity_changed": "identity",
}
_NO_NEWS: frozenset[str] = frozenset()


class Event:
    """What all events have in common."""

    __slots__ = ("_envelope", "raw")

    kind: ClassVar[Literal["message", "status", "error", "change", "profile"]]
    """What sort of event this is; it never changes for a class."""

    raw: JsonObject
    """The element as parsed, unknown keys kept: of `messages`, `statuses`, `errors` or `changes`."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope

    @property
    def id(self) -> str | None:
        """The sender's id; errors and changes have none. Personal: a number can be read from it."""
        return text(self.raw, "id")

    @property
    def timestamp(self) -> datetime | None:
        """When it happened, by the sender's clock: aware, UTC, whole seconds."""
        return moment(self.raw, "timestamp")

    @property
    def received_at(self) -> datetime:
        """When this project took the notification in: aware, UTC, milliseconds. Retries do not change it."""
        return EPOCH + timedelta(milliseconds=self._envelope.received_ms)

    @property
    def received_ms(self) -> int:
        """`received_at` as epoch milliseconds."""
        return self._envelope.received_ms

    @property
    def notification(self) -> str:
        """The id of the notification that it came with, 32 hex digits: the same in log lines, dead letters and traces.

        Retries do not change it. Nothing personal can be read from it.
        """
        return notification_id(self._envelope.received_ms, self.body_digest)

    @property
    def body_digest(self) -> bytes:
        """The second half of that id, 8 bytes."""
        return self._envelope.body_digest or digest(self._envelope.text)

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._envelope.attempt

    @property
    def source(self) -> Literal["onprem", "cloud"]:
        """The form of the notification: On-Premises (a bare object) or Cloud (`entry` and `changes`)."""
        return "onprem" if self._envelope.change is None else "cloud"

    @property
    def business(self) -> str | None:
        """The business phone number's id (Cloud: `metadata.phone_number_id`); None On-Premises."""
        return text(table(self._envelope.value, "metadata") or {}, "phone_number_id")

    @property
    def order_key(self) -> str | None:
        """Events with the same key must be handled one after another; None: with any other. Personal data."""
        return None

    def body(self) -> bytes:
        """A notification in the sender's own form that holds this event alone, with its contact.

        Parsing it gives this event again. Retries and dead letters are kept in this form.
        """
        raise NotImplementedError

    @property
    def subject(self) -> str | None:
        """What handlers choose by: a message's type, a status's status, a change's field; an error's code."""
        raise NotImplementedError

    def __repr__(self) -> str:
        label = self.subject or ""
        return f"<{type(self).__name__} {label if _PLAIN.fullmatch(label) else '?'}>"


class Message(Event):
    """A message from a contact: an element of `messages`.

    Source: "messages" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("news",)
    kind = "message"

    news: frozenset[str]
    """What of the contact is not as it was last seen: of the names in `Profile.changed`.

    Empty without a profile handler: then nothing of contacts is remembered."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self.news = _NO_NEWS

    @property
    def sender(self) -> str | None:
        """The contact's wa_id (digits, no plus), else the business-scoped user id."""
        return phone(self.raw, "from") or self.sender_user_id

    @property
    def sender_user_id(self) -> str | None:
        """The contact's business-scoped user id, such as `US.13491208655302741918` (Cloud, since 2026)."""
        return text(self.raw, "from_user_id") or None

    @property
    def type(self) -> str | None:
        """`text`, `image`, `button`, `interactive`, `system`, `unsupported`, …: an open set."""
        return text(self.raw, "type")

    @property
    def text(self) -> str | None:
        """What the contact wrote or chose, in this order: the text, the quick-reply button's text, the title
        of the chosen reply button or list row, the caption of the media. None for the rest."""
        for key, name in (("text", "body"), ("button", "text")):
            content = table(self.raw, key)
            if content is not None and (found := text(content, name)) is not None:
                return found
        reply = self._reply()
        if reply is not None and (found := text(reply, "title")) is not None:
            return found
        content = self._media()
        return None if content is None else text(content, "caption")

    @property
    def payload(self) -> str | None:
        """What the business attached to the button or list row that the contact chose: the payload of a
        template's quick reply, or the id of a reply button or list row."""
        button = table(self.raw, "button")
        if button is not None and (found := text(button, "payload")) is not None:
            return found
        reply = self._reply()
        return None if reply is None else text(reply, "id")

    @property
    def media(self) -> Media | None:
        """The content of type image, video, audio, voice, document or sticker; None for other types."""
        content = self._media()
        return None if content is None else Media.read(self.type or "", content)

    @property
    def location(self) -> JsonObject | None:
        """`latitude` and `longitude` in degrees; `name`, `address`, `url` if the contact chose a place."""
        return table(self.raw, "location")

    @property
    def contacts_shared(self) -> tuple[JsonObject, ...] | None:
        """The address book cards of type contacts. Not who sent the message: that is `contact`."""
        return tables(self.raw, "contacts") if "contacts" in self.raw else None

    @property
    def interactive(self) -> JsonObject | None:
        """The answer to an interactive message: `button_reply`, `list_reply`, `nfm_reply` (a flow), …"""
        return table(self.raw, "interactive")

    @property
    def order(self) -> JsonObject | None:
        """A basket: `catalog_id`, `text`, `product_items`. Numbers may come as strings."""
        return table(self.raw, "order")

    @property
    def reaction(self) -> JsonObject | None:
        """`message_id` and `emoji`; an emoji that is empty or missing means the reaction was taken back."""
        return table(self.raw, "reaction")

    @property
    def system(self) -> JsonObject | None:
        """What WhatsApp itself says about the contact; see `profile` for what it means."""
        return table(self.raw, "system")

    @property
    def referral(self) -> JsonObject | None:
        """The advertisement or post that led the contact here: `source_url`, `headline`, `ctwa_clid`, …"""
        return table(self.raw, "referral")

    @property
    def context(self) -> JsonObject | None:
        """What the message refers to: `id` and `from` of a quoted message, `referred_product`, …"""
        return table(self.raw, "context")

    @property
    def reply_to(self) -> str | None:
        """The id of the message that this one answers."""
        return text(self.context or {}, "id")

    @property
    def forwarded(self) -> bool | None:
        """True if forwarded, once or many times."""
        context = self.context or {}
        return flag(context, "frequently_forwarded") or flag(context, "forwarded")

    @property
    def group_id(self) -> str | None:
        """The group that the message was written in."""
        return text(self.raw, "group_id")

    @property
    def contact(self) -> JsonObject | None:
        """The element of the notification's `contacts` for this sender: `profile`, `wa_id`, `user_id`.

        It is found by number, else by user id; a lone contact is taken without a match, because a wa_id may
        differ from the number (Brazil, Mexico, Argentina), unless its user id is somebody else's.
        """
        envelope = self._envelope
        return envelope.only_contact or envelope.contact((phone(self.raw, "from"),), (self.sender_user_id,))

    @property
    def name(self) -> str | None:
        """The name that the contact chose for the own profile."""
        return text(table(self.contact or {}, "profile") or {}, "name")

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Why the content is missing, for type `unknown` or `unsupported`."""
        return tuple(map(Fault.read, tables(self.raw, "errors")))

    @property
    def profile(self) -> Profile | None:
        """News of the contact: what a system message says of its number, user id or identity, and what `news` names.
        None when there is none."""
        if not self.news and self.type != "system":
            return None
        found = Profile(self)
        return found if found.changed else None

    @property
    def order_key(self) -> str | None:
        """The contact, as routing sees it: messages of one contact are handled in order."""
        return contact_of(self.raw)

    def body(self) -> bytes:
        return self._envelope.around("messages", [self.raw], self.contact)

    def _reply(self) -> JsonObject | None:
        interactive = self.interactive or {}
        return table(interactive, "button_reply") or table(interactive, "list_reply")

    def _media(self) -> JsonObject | None:
        type_ = self.type
        return table(self.raw, type_) if type_ in _MEDIA else None

    @property
    def subject(self) -> str | None:
        return self.type


class Profile(Event):
    """News of a contact, read from one message.

    Either a message of type system says it, or what stands beside a message (`contacts[].profile`, ids, identity) is
    not what was last seen of the contact. One message gives one of these at most. `raw`, `id` and `timestamp` are the
    message's.

    Source: "system" messages, "contacts" and "identity" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("_after", "_before", "_message", "_told")
    kind = "profile"

    def __init__(self, message: Message) -> None:
        super().__init__(message.raw, message._envelope)
        self._message = message
        system = message.system if message.type == "system" else None
        main = _PROFILE_CHANGES.get(text(system or {}, "type") or "")
        self._before = _until_now(message, system if system and main else {})
        self._after = _from_now_on(message, system) if system and main else {}
        self._told = self._pairs(main) if main else _NO_NEWS

    @property
    def contact(self) -> str | None:
        """Who changed: the wa_id without a plus, else the business-scoped user id; of a system message those until
        now."""
        return self._before["number"] or self._before["user_id"]

    @property
    def changed(self) -> frozenset[str]:
        """What changed: of `name`, `username`, `number`, `user_id`, `identity`.

        A new number brings a new user id: of a system message both are named if it gives both the old and the new one.
        """
        return self._told | self._message.news

    @property
    def old(self) -> Mapping[str, str | None]:
        """For each name in `changed` the value until now, None where the sender does not say.

        Only system messages say it, of a number or a user id. What was seen before is not kept, only that it differs.
        """
        before, after, told = self._before, self._after, self._told - {"identity"}
        # A sender that already writes the new value in the message's own fields does not tell the old one.
        return {n: before[n] if n in told and before[n] != after[n] else None for n in self.changed}

    @property
    def new(self) -> Mapping[str, str | None]:
        """For each name in `changed` the value from now on, None where the sender does not say.

        A number is a wa_id without a plus, an identity the hash of the contact's key.
        """
        facts = self.facts
        return {n: facts[n] for n in self.changed}

    @property
    def facts(self) -> Mapping[str, str | None]:
        """All that the notification says of the contact, changed or not, by the names in `changed`; else None."""
        after, told = self._after, self._told
        return {n: after.get(n) or (None if n in told else value) for n, value in self._before.items()}

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """What the contact can be recognised by, until now and from now on: `number` or `user_id`, and the value."""
        found = ((n, values.get(n)) for values in (self._before, self._after) for n in ("number", "user_id"))
        return tuple(dict.fromkeys((n, value) for n, value in found if value))

    def body(self) -> bytes:
        return self._message.body()

    def _pairs(self, main: str) -> frozenset[str]:
        """What changed as a system message says: what it is about, and of number and user id what it gives twice."""
        if main == "identity":
            return frozenset({main})
        pairs = ((n, self._before[n], self._after[n]) for n in ("number", "user_id"))
        return frozenset(n for n, old, new in pairs if n == main or (old and new not in (None, old)))

    @property
    def subject(self) -> str:
        return "_and_".join(sorted(self.changed))


def _until_now(message: Message, system: JsonObject) -> dict[str, str | None]:
    """What a message's own fields and its contact say: in a system message mostly the contact until now."""
    raw, contact = message.raw, message.contact or {}
    profile = table(contact, "profile") or {}
    # First what every message has: a contact's wa_id may differ from it (Brazil, Mexico, Argentina).
    number = phone(system, "customer") or phone(raw, "from") or phone(system, "user") or phone(contact, "wa_id")
    return {
        "name": text(profile, "name") or None,
        "username": text(profile, "username") or None,
        "number": number,
        "user_id": text(raw, "from_user_id") or text(contact, "user_id") or None,
        "identity": text(table(raw, "identity") or {}, "hash") or text(contact, "identity_key_hash") or None,
    }


def _from_now_on(message: Message, system: JsonObject) -> dict[str, str | None]:
    """What the content of a system message says: the contact from now on."""
    return {
        # `new_wa_id` up to webhook version 11, `wa_id` from version 12 on.
        "number": phone(system, "new_wa_id") or phone(system, "wa_id"),
        "user_id": text(system, "user_id") or None,
        "identity": text(system, "identity") or text(table(message.raw, "identity") or {}, "hash") or None,
    }


class Status(Event):
    """What became of a message: an element of `statuses`. `id` is the id that sending the message returned.

    Source: "statuses" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("superseded",)
    kind = "status"

    superseded: bool
    """True when a later stage of the same message (sent < delivered < read < played) was handled before this one."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self.superseded = False

    @property
    def status(self) -> str | None:
        """`sent`, `delivered`, `read`, `played`, `failed`, `deleted`, `warning`: an open set; any order."""
        return text(self.raw, "status")

    @property
    def recipient(self) -> str | None:
        """To whom: the wa_id without a plus or the group's id, else the business-scoped user id."""
        return (
            phone(self.raw, "recipient_id")
            or phone(table(self.raw, "message") or {}, "recipient_id")
            or self.recipient_user_id
        )

    @property
    def recipient_user_id(self) -> str | None:
        """The recipient's business-scoped user id (Cloud, since 2026)."""
        return text(self.raw, "recipient_user_id") or None

    @property
    def participant(self) -> str | None:
        """Who of a group: the wa_id without a plus, else the business-scoped user id."""
        return self._participant_number() or text(self.raw, "recipient_participant_user_id") or None

    @property
    def type(self) -> str | None:
        """What the status is of: `message`, `payment`, …; older clients leave it out."""
        return text(self.raw, "type")

    @property
    def pricing(self) -> Pricing | None:
        """What the message costs; aggregated group statuses have it inside `conversation`."""
        found = table(self.raw, "pricing") or table(table(self.raw, "conversation") or {}, "pricing")
        return None if found is None else Pricing.read(found)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation that the message was billed in."""
        found = table(self.raw, "conversation")
        return None if found is None else Conversation.read(found)

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Why it failed."""
        return tuple(map(Fault.read, tables(self.raw, "errors")))

    @property
    def opaque(self) -> str | None:
        """`biz_opaque_callback_data`: up to 512 characters that the business gave when sending."""
        return text(self.raw, "biz_opaque_callback_data")

    @property
    def contact(self) -> JsonObject | None:
        """The element of the notification's `contacts` for the recipient or the group's participant (Cloud,
        since 2026); it is found as a message's is."""
        if not self._envelope.value.get("contacts"):  # so it is with nearly all statuses
            return None
        raw = self.raw
        return self._envelope.contact(
            (self.recipient, self._participant_number()),
            (self.recipient_user_id, text(raw, "recipient_participant_user_id")),
        )

    @property
    def order_key(self) -> str | None:
        """The message's id: statuses of one message are handled one after another."""
        return self.id

    def body(self) -> bytes:
        return self._envelope.around("statuses", [self.raw], self.contact)

    def _participant_number(self) -> str | None:
        # Meta's documentation prints both spellings.
        return phone(self.raw, "recipient_participant_id") or phone(self.raw, "participant_recipient_id")

    @property
    def subject(self) -> str | None:
        return self.status


class Error(Event):
    """A fault that belongs to no message: an element of `errors` beside, not inside, messages and statuses.

    Source: "errors" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ()
    kind = "error"

    @property
    def code(self) -> int | None:
        """A number of Meta's error code list, such as 130429."""
        return number(self.raw, "code")

    @property
    def title(self) -> str | None:
        """The code's short name."""
        return text(self.raw, "title")

    @property
    def details(self) -> str | None:
        """What happened, in English (Cloud: `error_data.details`)."""
        return error_details(self.raw)

    @property
    def message(self) -> str | None:
        """Cloud only; mostly the same as `title`."""
        return text(self.raw, "message")

    @property
    def href(self) -> str | None:
        """Where the code is documented; may be relative."""
        return text(self.raw, "href")

    def body(self) -> bytes:
        return self._envelope.around("errors", [self.raw])

    @property
    def subject(self) -> str | None:
        return text(self.raw, "code")


class Change(Event):
    """A Cloud change of any field other than `messages`: calls, history, templates, the account, …

    Source: the field reference in the Cloud webhook documentation, a set that grows.
    """

    __slots__ = ()
    kind = "change"

    @property
    def field(self) -> str | None:
        """`calls`, `account_update`, …; None where the sender leaves it out."""
        return text(self.raw, "field")

    @property
    def value(self) -> Any:
        """What the sender says, as parsed: nearly always an object."""
        return self.raw.get("value")

    @property
    def account(self) -> str | None:
        """The entry's id: the WhatsApp business account."""
        return text(self._envelope.entry or {}, "id")

    @property
    def time(self) -> datetime | None:
        """The entry's time: aware, UTC, whole seconds."""
        return moment(self._envelope.entry or {}, "time")

    @property
    def timestamp(self) -> datetime | None:
        """The same as `time`."""
        return self.time

    def body(self) -> bytes:
        return self._envelope.around_change(self.raw)

    @property
    def subject(self) -> str | None:
        return self.field


class Broken:
    """What cannot become an event: it is answered 200 like anything else and becomes a dead letter at once.

    `reason`: `unreadable` (not a JSON object) · `unknown_form` (an object of neither sender's form) ·
    `malformed` (one part of a notification, the rest of which is fine). `kind` says what it would have been:
    message, status, error, change or notification. `body` is the notification as received, or, if malformed,
    one that holds the broken part alone. `detail` names the fault without quoting content.
    """

    __slots__ = ("attempt", "body", "detail", "kind", "reason", "received_ms")

    def __init__(self, reason: str, kind: str, body: bytes, detail: str, received_ms: int, attempt: int = 1) -> None:
        self.reason = reason
        self.kind = kind
        self.body = body
        self.detail = detail
        self.received_ms = received_ms
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"<Broken {self.reason} {self.kind}>"
