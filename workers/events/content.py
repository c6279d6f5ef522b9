"""Small values inside a message: a place, an address book card, what is in a basket, an advertisement."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.events.values import JsonObject, decimal, phone, table, tables, text


@dataclass(frozen=True, slots=True)
class Place:
    """A place on the map. `latitude` and `longitude` are in degrees; `name`, `address` and `url` are there if the
    contact chose a place. Source: "location" in the Cloud and On-Premises webhook documentation.
    """

    latitude: float | None = field(repr=False)
    longitude: float | None = field(repr=False)
    name: str | None = field(repr=False)
    address: str | None = field(repr=False)
    url: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Place:
        return cls(
            decimal(element, "latitude"),
            decimal(element, "longitude"),
            text(element, "name"),
            text(element, "address"),
            text(element, "url"),
        )


@dataclass(frozen=True, slots=True)
class Phone:
    """A number on a card: as written there, its sort (`CELL`, `WORK`, …), and the WhatsApp ids that go with it."""

    phone: str | None = field(repr=False)
    type: str | None = field(repr=False)
    wa_id: str | None = field(repr=False)
    user_id: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Phone:
        return cls(
            text(element, "phone"), text(element, "type"), phone(element, "wa_id"), text(element, "user_id") or None
        )


@dataclass(frozen=True, slots=True)
class Card:
    """An address book card. `name` is the name as shown; `origin` says why it was sent (`contact_request`: the contact
    answers a request for the number). Mail and web addresses are the texts alone; `vcard` is the whole card as a vCard.
    Source: "contacts" messages in the Cloud and On-Premises webhook documentation.
    """

    name: str | None = field(repr=False)
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    phones: tuple[Phone, ...] = field(repr=False)
    emails: tuple[str, ...] = field(repr=False)
    urls: tuple[str, ...] = field(repr=False)
    company: str | None = field(repr=False)
    birthday: str | None = field(repr=False)
    vcard: str | None = field(repr=False)
    origin: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Card:
        name = table(element, "name") or {}
        return cls(
            text(name, "formatted_name"),
            text(name, "first_name"),
            text(name, "last_name"),
            tuple(map(Phone.read, tables(element, "phones"))),
            _texts(element, "emails", "email"),
            _texts(element, "urls", "url"),
            text(table(element, "org") or {}, "company"),
            text(element, "birthday"),
            text(element, "vcard"),
            text(element, "origin"),
        )


@dataclass(frozen=True, slots=True)
class OrderItem:
    """A product in a basket: its id in the catalogue, how many, the price of one, in units of the currency.
    Source: "order" messages in the Cloud webhook documentation.
    """

    product: str | None = field(repr=False)
    quantity: float | None = field(repr=False)
    price: float | None = field(repr=False)
    currency: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> OrderItem:
        return cls(
            text(element, "product_retailer_id"),
            decimal(element, "quantity"),
            decimal(element, "item_price"),
            text(element, "currency"),
        )


@dataclass(frozen=True, slots=True)
class Referral:
    """The advertisement or post that led a contact here. `source_type` is `ad` or `post`, `ctwa_clid` Meta's id of the
    click, `welcome` the greeting that the contact saw. Source: "referral" in the Cloud webhook documentation.
    """

    source_url: str | None = field(repr=False)
    source_id: str | None = field(repr=False)
    source_type: str | None = field(repr=False)
    headline: str | None = field(repr=False)
    body: str | None = field(repr=False)
    media_type: str | None = field(repr=False)
    image_url: str | None = field(repr=False)
    video_url: str | None = field(repr=False)
    thumbnail_url: str | None = field(repr=False)
    ctwa_clid: str | None = field(repr=False)
    welcome: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Referral:
        return cls(
            text(element, "source_url"),
            text(element, "source_id"),
            text(element, "source_type"),
            text(element, "headline"),
            text(element, "body"),
            text(element, "media_type"),
            text(element, "image_url"),
            text(element, "video_url"),
            text(element, "thumbnail_url"),
            text(element, "ctwa_clid"),
            text(table(element, "welcome_message") or {}, "text"),
        )


def _texts(element: JsonObject, key: str, name: str) -> tuple[str, ...]:
    return tuple(found for one in tables(element, key) if (found := text(one, name)))
