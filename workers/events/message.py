"""A message: what a contact wrote, and what the business wrote."""

from __future__ import annotations

from typing import Any, Literal

import orjson

from ingest import identity
from ingest.identity import Names
from workers.events.chat import ChatEvent
from workers.events.content import Card, OrderItem, Place, Referral
from workers.events.envelope import Envelope, write_json
from workers.events.profile import Facts, Profile, facts_of_message
from workers.events.values import Fault, JsonObject, Media, flag, phone, table, tables, text

MEDIA = frozenset({"image", "video", "audio", "voice", "document", "sticker"})
"""Types with media."""

_REPLIES = ("button_reply", "list_reply")
HISTORY = "history "
"""Begins the way of a message of the history."""

_NO_NEWS: frozenset[str] = frozenset()


class Message(ChatEvent):
    """A message: an element of `messages`, or of what the Cloud API calls echoes, standby and history.

    Source: "messages", "smb_message_echoes", "standby" and "history" in the Cloud webhook documentation, "messages" in
    the On-Premises one.
    """

    __slots__ = ("news",)
    kind = "message"
    _array = "messages"

    news: frozenset[str]
    """Which facts of the contact differ from what was last seen, by the names in `Profile.changed`.

    Empty without a profile handler: then nothing is remembered of contacts."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self._known = None
        self.news = _NO_NEWS

    @property
    def direction(self) -> Literal["in", "out"]:
        """`in`: the contact wrote it. `out`: the business did, in the phone's app, by another app or by an agent."""
        return "out" if "_vnd" in self.raw and identity.is_outbound(self.raw) else "in"

    @property
    def _way(self) -> str:  # type: ignore[override]
        return self.direction

    @property
    def standby(self) -> bool:
        """True while another app, such as Meta's business agent, has the conversation: it answers, not you."""
        return self._envelope.is_standby

    @property
    def history(self) -> bool:
        """True for an old message, from before the number was connected: nobody waits for an answer."""
        return False

    @property
    def sender(self) -> str | None:
        """Who wrote it: the contact's number without a plus, else the business-scoped user id, else the id for the
        parent; of a message of the business, the business's number."""
        if self.direction == "in":
            return self.contact_id
        return phone(self.raw, "from") or phone(self._content, "from") or self.display_number

    @property
    def sender_user_id(self) -> str | None:
        """The contact's business-scoped user id, such as `US.13491208655302741918`, as the message itself names it."""
        return self._names()[1] if self.direction == "in" else None

    @property
    def recipient(self) -> str | None:
        """Whom it went to: of a message of the business, the contact; else the business's number."""
        return self.contact_id if self.direction == "out" else phone(self.raw, "to") or self.display_number

    @property
    def type(self) -> str | None:
        """`text`, `image`, `button`, `interactive`, `system`, `unsupported`, …: an open set."""
        found = self.raw.get("type")
        if type(found) is str and found:  # nearly always
            return found
        return text(self.raw, "type") or (text(self._content, "type") if "message" in self.raw else None)

    @property
    def text(self) -> str | None:
        """What was written or chosen, in this order: the text, the quick-reply button's text, the title of the chosen
        reply button or list row, the caption of the media; of an edit, as it is now. None for all others."""
        content = self._content
        for key, name in (("text", "body"), ("button", "text")):
            if key in content and (one := table(content, key)) and (found := text(one, name)) is not None:
                return found
        reply = self._reply
        if reply is not None and (found := text(reply, "title")) is not None:
            return found
        media = self._media
        return None if media is None else text(media[1], "caption")

    @property
    def payload(self) -> str | None:
        """What the business attached to the button or list row that the contact chose: the payload of a
        template's quick reply, or the id of a reply button or list row."""
        button = table(self._content, "button")
        if button is not None and (found := text(button, "payload")) is not None:
            return found
        reply = self._reply
        return None if reply is None else text(reply, "id")

    @property
    def content(self) -> JsonObject | None:
        """What stands under the message's type, as sent, also for types that are not described here; of an edit, the
        content as it is now."""
        content = self._content
        return table(content, text(content, "type") or "")

    @property
    def media(self) -> Media | None:
        """The content of type image, video, audio, voice, document or sticker, of an edit as it is now; else None."""
        media = self._media
        return None if media is None else Media.read(*media)

    @property
    def original_id(self) -> str | None:
        """The id of the message that an `edit` changes or a `revoke` deletes."""
        found = table(self.raw, "edit") or table(self.raw, "revoke") or {}
        return text(found, "original_message_id")

    @property
    def unsupported_type(self) -> str | None:
        """What a message of type `unsupported` was: `poll_creation`, …."""
        return text(table(self.raw, "unsupported") or {}, "type")

    @property
    def location(self) -> JsonObject | None:
        """The place of type location, as sent; `place` has it typed."""
        return table(self._content, "location")

    @property
    def place(self) -> Place | None:
        """The place of type location."""
        return None if self.location is None else Place.read(self.location)

    @property
    def contacts_shared(self) -> tuple[JsonObject, ...] | None:
        """The address book cards of type contacts, as sent. Not who sent the message: that is `contact`."""
        return tables(self._content, "contacts") if "contacts" in self._content else None

    @property
    def cards(self) -> tuple[Card, ...]:
        """The address book cards of type contacts."""
        return tuple(map(Card.read, self.contacts_shared or ()))

    @property
    def interactive(self) -> JsonObject | None:
        """The answer to an interactive message: `button_reply`, `list_reply`, `nfm_reply` (a flow), …"""
        return table(self._content, "interactive")

    @property
    def interactive_type(self) -> str | None:
        """`button_reply`, `list_reply`, `nfm_reply`, `call_permission_reply`, …: an open set."""
        interactive = self.interactive or {}
        inside = table(interactive, "type") or {}  # some relays write the reply itself there
        return text(interactive, "type") or next((key for key in inside if isinstance(key, str)), None)

    @property
    def flow(self) -> dict[str, Any] | None:
        """What the contact entered in a flow, or as an address: `response_json`, parsed. None where that is no JSON
        object; `flow_json` has it as sent."""
        try:
            found = orjson.loads(self.flow_json or "")
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None

    @property
    def flow_json(self) -> str | None:
        """`response_json` of a flow's answer, as sent."""
        answer = self._flow
        sent = answer.get("response_json")
        return write_json(sent).decode() if isinstance(sent, dict) else text(answer, "response_json")

    @property
    def flow_name(self) -> str | None:
        """`flow`, `address_message`, …."""
        return text(self._flow, "name")

    @property
    def order(self) -> JsonObject | None:
        """A basket: `catalog_id`, `text`, `product_items`. Numbers may come as strings."""
        return table(self._content, "order")

    @property
    def order_items(self) -> tuple[OrderItem, ...]:
        """What is in the basket."""
        return tuple(map(OrderItem.read, tables(self.order or {}, "product_items")))

    @property
    def reaction(self) -> JsonObject | None:
        """`message_id` and `emoji`; an emoji that is empty or missing means the reaction was taken back."""
        return table(self._content, "reaction")

    @property
    def emoji(self) -> str | None:
        """The emoji of a reaction; None when it was taken back."""
        return text(self.reaction or {}, "emoji") or None

    @property
    def reaction_to(self) -> str | None:
        """The id of the message that a reaction is about."""
        return text(self.reaction or {}, "message_id")

    @property
    def system(self) -> JsonObject | None:
        """What WhatsApp itself says about the contact; see `profile` for what it means."""
        return table(self.raw, "system")

    @property
    def identity(self) -> JsonObject | None:
        """State of the contact's key, for businesses that check it: `hash`, `acknowledged`, `created_timestamp`."""
        return table(self.raw, "identity")

    @property
    def referral(self) -> JsonObject | None:
        """The advertisement or post that led the contact here, as sent; `ad` has it typed."""
        return table(self._content, "referral")

    @property
    def ad(self) -> Referral | None:
        """The advertisement or post that led the contact here."""
        return None if self.referral is None else Referral.read(self.referral)

    @property
    def context(self) -> JsonObject | None:
        """What the message refers to: `id` and `from` of a quoted message, `referred_product`, …"""
        return table(self.raw, "context") or table(self._content, "context")

    @property
    def reply_to(self) -> str | None:
        """The id of the message that this one answers."""
        return text(self.context or {}, "id")

    @property
    def reply_to_sender(self) -> str | None:
        """Who wrote the message that this one answers: a number without a plus, or a user id."""
        context = self.context or {}
        return phone(context, "from") or text(context, "from_user_id")

    @property
    def product(self) -> str | None:
        """The id of the catalogue's product that the message asks about."""
        return text(table(self.context or {}, "referred_product") or {}, "product_retailer_id")

    @property
    def forwarded(self) -> bool | None:
        """True if forwarded, once or many times."""
        context = self.context or {}
        return flag(context, "frequently_forwarded") or flag(context, "forwarded")

    @property
    def group_id(self) -> str | None:
        """The group that the message was written in."""
        return text(self.raw, "group_id") or text(self._content, "group_id")

    @property
    def contact(self) -> JsonObject | None:
        """The element of the notification's `contacts` for this contact: `profile`, `wa_id`, `user_id`, ….

        It is found by number, else by user id, else by parent id; numbers of Brazil, Mexico and Argentina match in all
        their forms. A lone contact, or the one at the same place of as many, is taken unless its number or id is
        somebody else's; by a system message never, because it may be another's.
        """
        people = self._envelope.people
        if not people:
            return None
        if "system" in self.raw and (system := table(self.raw, "system")) is not None:
            return people.called(self._names(), identity.new_names(system))
        return people.of(self._names(), self.raw, self._array)

    @property
    def history_status(self) -> str | None:
        """What became of a message of the history: `READ`, `DELIVERED`, …."""
        return text(table(self.raw, "history_context") or {}, "status")

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Why the content is missing, for type `unknown` or `unsupported`."""
        return tuple(map(Fault.read, tables(self.raw, "errors")))

    @property
    def profile(self) -> Profile | None:
        """News of the contact: a number, user id or identity that a system message changes, and what `news` names.
        None when there is none."""
        if not self.news and self.type != "system":
            return None
        found = Profile(self)
        return found if found.changed else None

    @property
    def subject(self) -> str | None:
        return self.type

    def _facts(self) -> Facts:
        """What it says of the contact, see `Profile`."""
        return facts_of_message(self.raw, self.system if self.type == "system" else None, self._names(), self.contact)

    def _read_names(self) -> Names:
        return identity.of_message(self.raw, self._envelope.display if "_vnd" in self.raw else "")

    @property
    def _content(self) -> JsonObject:
        """Where the content stands: in an edit one level deeper, and so in an echo of standby."""
        raw = self.raw
        for key in ("edit", "message"):
            if key in raw and isinstance(found := raw[key], dict):
                inner = found.get("message") if key == "edit" else found
                return inner if isinstance(inner, dict) else raw
        return raw

    @property
    def _reply(self) -> JsonObject | None:
        interactive = self.interactive or {}
        for one in (interactive, table(interactive, "type") or {}):  # some relays write the reply into `type`
            for name in _REPLIES:
                if (found := table(one, name)) is not None:
                    return found
        return None

    @property
    def _flow(self) -> JsonObject:
        return table(self.interactive or {}, "nfm_reply") or {}

    @property
    def _media(self) -> tuple[str, JsonObject] | None:
        content = self._content
        type_ = text(content, "type")
        found = table(content, type_) if type_ in MEDIA else None
        return None if found is None or type_ is None else (type_, found)


class Echo(Message):
    """A message that the business sent: an element of `message_echoes`."""

    __slots__ = ()
    _array = "message_echoes"

    @property
    def direction(self) -> Literal["in", "out"]:
        return "out"

    @property
    def id(self) -> str | None:
        return text(self.raw, "id") or text(self._content, "id")

    def _read_names(self) -> Names:
        return identity.of_echo(self.raw, self._envelope.display)


class Sent(Echo):
    """A message that the business sent, as Turn.io posts it: the body itself."""

    __slots__ = ()

    def body(self) -> bytes:
        return write_json(self.raw)


class Historic(Message):
    """A message of the history, which the Cloud API sends when a number of the phone's app is connected.

    `thread` is what encloses it but for its messages; None for one whose media come later, in an array of their own.
    """

    __slots__ = ("thread",)

    def __init__(self, raw: JsonObject, envelope: Envelope, thread: JsonObject | None = None) -> None:
        super().__init__(raw, envelope)
        self.thread = thread

    @property
    def history(self) -> bool:
        return True

    @property
    def _way(self) -> str:  # type: ignore[override]
        return f"{HISTORY}{self.direction}"

    @property
    def direction(self) -> Literal["in", "out"]:
        is_ours = identity.is_display(self.raw.get("from"), self._envelope.display)
        return "out" if is_ours or (self.thread is not None and self._is_not_of_the_thread()) else "in"

    def body(self) -> bytes:
        if self.thread is None:
            return super().body()
        chunk = {"threads": [{**self.thread, "messages": [self.raw]}]}
        return self._envelope.around("history", [chunk], self.contact)

    def _is_not_of_the_thread(self) -> bool:
        """With a hidden number, the sender is compared with the thread."""
        sender = identity.of_message(self.raw)
        return any(sender) and not any(mine and mine == its for mine, its in zip(sender, self._names(), strict=True))

    def _read_names(self) -> Names:
        return identity.of_history(self.raw, self._envelope.display, self.thread)
