"""A message from a contact."""

from __future__ import annotations

from ingest import routing
from workers.events.envelope import Envelope
from workers.events.event import Event
from workers.events.profile import Profile
from workers.events.values import Fault, JsonObject, Media, flag, phone, table, tables, text

_MEDIA = frozenset({"image", "video", "audio", "voice", "document", "sticker"})
_NO_NEWS: frozenset[str] = frozenset()


class Message(Event):
    """A message from a contact: an element of `messages`.

    Source: "messages" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("news",)
    kind = "message"

    news: frozenset[str]
    """Which facts of the contact differ from what was last seen, by the names in `Profile.changed`.

    Empty without a profile handler: then nothing is remembered of contacts."""

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
        of the chosen reply button or list row, the caption of the media. None for all others."""
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
        """The name in the contact's own profile."""
        return text(table(self.contact or {}, "profile") or {}, "name")

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
    def order_key(self) -> str | None:
        """A checksum of the contact: messages of one contact are handled in order, whether they name it by number or by
        a user id that came with this number before."""
        return routing.order_key(self._envelope.shares, self.business, self.raw)

    def body(self) -> bytes:
        return self._envelope.around("messages", [self.raw], [] if (contact := self.contact) is None else [contact])

    def _reply(self) -> JsonObject | None:
        interactive = self.interactive or {}
        return table(interactive, "button_reply") or table(interactive, "list_reply")

    def _media(self) -> JsonObject | None:
        type_ = self.type
        return table(self.raw, type_) if type_ in _MEDIA else None

    @property
    def subject(self) -> str | None:
        return self.type


def shares_of(event: Event) -> bytes:
    """What the record of an event's retry says of its contact, see `ingest.routing`."""
    return routing.share_of(event._envelope.shares, event.business, event.raw) if isinstance(event, Message) else b""
