"""What each attribute of an event is to a type checker. tests/workers/test_public.py sees that none is missing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, assert_type

from workers import (
    Broken,
    Call,
    Card,
    Change,
    Conversation,
    Error,
    Event,
    Fault,
    Handover,
    Media,
    Message,
    OrderItem,
    Payment,
    Phone,
    Place,
    Preference,
    Pricing,
    Profile,
    Referral,
    Status,
)

Object = dict[str, Any]
Kind = Literal["message", "status", "error", "change", "profile", "call", "handover", "preference"]


def all_events(event: Event) -> None:
    assert_type(event.kind, Kind)
    assert_type(event.raw, Object)
    assert_type(event.id, str | None)
    assert_type(event.timestamp, datetime | None)
    assert_type(event.received_at, datetime)
    assert_type(event.received_ms, int)
    assert_type(event.notification, str)
    assert_type(event.body_digest, bytes)
    assert_type(event.attempt, int)
    assert_type(event.source, Literal["onprem", "cloud"])
    assert_type(event.business, str | None)
    assert_type(event.order_key, str | None)
    assert_type(event.subject, str | None)
    assert_type(event.body(), bytes)
    assert_type(event.account, str | None)
    assert_type(event.time, datetime | None)
    assert_type(event.display_number, str | None)
    assert_type(event.envelope, Mapping[str, Any])
    assert_type(event.headers, Mapping[str, str])
    assert_type(event.field, str | None)


def messages(message: Message) -> None:
    assert_type(message.kind, Literal["message"])
    assert_type(message.news, frozenset[str])
    assert_type(message.sender, str | None)
    assert_type(message.sender_user_id, str | None)
    assert_type(message.type, str | None)
    assert_type(message.text, str | None)
    assert_type(message.payload, str | None)
    assert_type(message.media, Media | None)
    assert_type(message.location, Object | None)
    assert_type(message.contacts_shared, tuple[Object, ...] | None)
    assert_type(message.interactive, Object | None)
    assert_type(message.order, Object | None)
    assert_type(message.reaction, Object | None)
    assert_type(message.system, Object | None)
    assert_type(message.referral, Object | None)
    assert_type(message.context, Object | None)
    assert_type(message.reply_to, str | None)
    assert_type(message.forwarded, bool | None)
    assert_type(message.group_id, str | None)
    assert_type(message.contact, Object | None)
    assert_type(message.name, str | None)
    assert_type(message.errors, tuple[Fault, ...])
    assert_type(message.profile, Profile | None)
    assert_type(message.order_key, str | None)
    assert_type(message.subject, str | None)
    assert_type(message.body(), bytes)
    assert_type(message.direction, Literal["in", "out"])
    assert_type(message.standby, bool)
    assert_type(message.history, bool)
    assert_type(message.recipient, str | None)
    assert_type(message.content, Object | None)
    assert_type(message.original_id, str | None)
    assert_type(message.unsupported_type, str | None)
    assert_type(message.place, Place | None)
    assert_type(message.cards, tuple[Card, ...])
    assert_type(message.interactive_type, str | None)
    assert_type(message.flow, Object | None)
    assert_type(message.flow_json, str | None)
    assert_type(message.flow_name, str | None)
    assert_type(message.order_items, tuple[OrderItem, ...])
    assert_type(message.emoji, str | None)
    assert_type(message.reaction_to, str | None)
    assert_type(message.identity, Object | None)
    assert_type(message.ad, Referral | None)
    assert_type(message.reply_to_sender, str | None)
    assert_type(message.product, str | None)
    assert_type(message.history_status, str | None)
    assert_type(message.contact_id, str | None)
    assert_type(message.wa_id, str | None)
    assert_type(message.user_id, str | None)
    assert_type(message.parent_user_id, str | None)
    assert_type(message.username, str | None)


def profiles(profile: Profile) -> None:
    assert_type(profile.kind, Literal["profile"])
    assert_type(profile.contact, str | None)
    assert_type(profile.changed, frozenset[str])
    assert_type(profile.old, Mapping[str, str | None])
    assert_type(profile.new, Mapping[str, str | None])
    assert_type(profile.facts, Mapping[str, str | None])
    assert_type(profile.aliases, tuple[tuple[str, str], ...])
    assert_type(profile.subject, str)
    assert_type(profile.body(), bytes)


def statuses(status: Status) -> None:
    assert_type(status.kind, Literal["status"])
    assert_type(status.superseded, bool)
    assert_type(status.status, str | None)
    assert_type(status.recipient, str | None)
    assert_type(status.recipient_user_id, str | None)
    assert_type(status.participant, str | None)
    assert_type(status.type, str | None)
    assert_type(status.pricing, Pricing | None)
    assert_type(status.conversation, Conversation | None)
    assert_type(status.errors, tuple[Fault, ...])
    assert_type(status.opaque, str | None)
    assert_type(status.contact, Object | None)
    assert_type(status.order_key, str | None)
    assert_type(status.subject, str | None)
    assert_type(status.body(), bytes)
    assert_type(status.recipient_parent_user_id, str | None)
    assert_type(status.recipient_type, str | None)
    assert_type(status.participant_user_id, str | None)
    assert_type(status.participant_parent_user_id, str | None)
    assert_type(status.name, str | None)
    assert_type(status.username, str | None)
    assert_type(status.standby, bool)
    assert_type(status.payment, Payment | None)


def errors(error: Error) -> None:
    assert_type(error.kind, Literal["error"])
    assert_type(error.code, int | None)
    assert_type(error.title, str | None)
    assert_type(error.details, str | None)
    assert_type(error.message, str | None)
    assert_type(error.href, str | None)
    assert_type(error.subject, str | None)
    assert_type(error.body(), bytes)


def changes(change: Change) -> None:
    assert_type(change.kind, Literal["change"])
    assert_type(change.field, str | None)
    assert_type(change.value, Any)
    assert_type(change.account, str | None)
    assert_type(change.time, datetime | None)
    assert_type(change.timestamp, datetime | None)
    assert_type(change.subject, str | None)
    assert_type(change.body(), bytes)
    assert_type(change.path, str)
    assert_type(change.business, str | None)
    assert_type(change.profile, Profile | None)


def faults(fault: Fault) -> None:
    assert_type(fault.code, int | None)
    assert_type(fault.title, str | None)
    assert_type(fault.details, str | None)
    assert_type(fault.href, str | None)
    assert_type(fault.message, str | None)


def all_media(media: Media) -> None:
    assert_type(media.id, str | None)
    assert_type(media.mime_type, str | None)
    assert_type(media.sha256, str | None)
    assert_type(media.caption, str | None)
    assert_type(media.filename, str | None)
    assert_type(media.url, str | None)
    assert_type(media.link, str | None)
    assert_type(media.file, str | None)
    assert_type(media.voice, bool | None)
    assert_type(media.animated, bool | None)


def prices(pricing: Pricing) -> None:
    assert_type(pricing.billable, bool | None)
    assert_type(pricing.model, str | None)
    assert_type(pricing.category, str | None)
    assert_type(pricing.type, str | None)


def conversations(conversation: Conversation) -> None:
    assert_type(conversation.id, str | None)
    assert_type(conversation.origin, str | None)
    assert_type(conversation.expires_at, datetime | None)


def calls(call: Call) -> None:
    assert_type(call.kind, Literal["call"])
    assert_type(call.event, str | None)
    assert_type(call.direction, Literal["in", "out"])
    assert_type(call.status, str | None)
    assert_type(call.initiator, str | None)
    assert_type(call.session, Object | None)
    assert_type(call.connection, Object | None)
    assert_type(call.duration, int | None)
    assert_type(call.started_at, datetime | None)
    assert_type(call.ended_at, datetime | None)
    assert_type(call.caller, str | None)
    assert_type(call.callee, str | None)
    assert_type(call.opaque, str | None)
    assert_type(call.errors, tuple[Fault, ...])
    assert_type(call.subject, str | None)
    assert_type(call.contact, Object | None)
    assert_type(call.contact_id, str | None)
    assert_type(call.wa_id, str | None)
    assert_type(call.user_id, str | None)
    assert_type(call.parent_user_id, str | None)
    assert_type(call.name, str | None)
    assert_type(call.username, str | None)
    assert_type(call.order_key, str | None)


def handovers(handover: Handover) -> None:
    assert_type(handover.kind, Literal["handover"])
    assert_type(handover.type, str | None)
    assert_type(handover.previous_owner, str | None)
    assert_type(handover.new_owner, str | None)
    assert_type(handover.metadata, str | None)
    assert_type(handover.details, Object | None)
    assert_type(handover.subject, str | None)
    assert_type(handover.body(), bytes)
    assert_type(handover.contact, Object | None)
    assert_type(handover.contact_id, str | None)
    assert_type(handover.wa_id, str | None)
    assert_type(handover.user_id, str | None)
    assert_type(handover.parent_user_id, str | None)
    assert_type(handover.name, str | None)
    assert_type(handover.username, str | None)
    assert_type(handover.order_key, str | None)


def preferences(preference: Preference) -> None:
    assert_type(preference.kind, Literal["preference"])
    assert_type(preference.value, str | None)
    assert_type(preference.category, str | None)
    assert_type(preference.detail, str | None)
    assert_type(preference.signup_id, str | None)
    assert_type(preference.subject, str | None)
    assert_type(preference.contact, Object | None)
    assert_type(preference.contact_id, str | None)
    assert_type(preference.wa_id, str | None)
    assert_type(preference.user_id, str | None)
    assert_type(preference.parent_user_id, str | None)
    assert_type(preference.name, str | None)
    assert_type(preference.username, str | None)
    assert_type(preference.order_key, str | None)


def cards(card: Card) -> None:
    assert_type(card.name, str | None)
    assert_type(card.first_name, str | None)
    assert_type(card.last_name, str | None)
    assert_type(card.phones, tuple[Phone, ...])
    assert_type(card.emails, tuple[str, ...])
    assert_type(card.urls, tuple[str, ...])
    assert_type(card.company, str | None)
    assert_type(card.birthday, str | None)
    assert_type(card.vcard, str | None)
    assert_type(card.origin, str | None)


def order_items(orderitem: OrderItem) -> None:
    assert_type(orderitem.product, str | None)
    assert_type(orderitem.quantity, float | None)
    assert_type(orderitem.price, float | None)
    assert_type(orderitem.currency, str | None)


def payments(payment: Payment) -> None:
    assert_type(payment.reference_id, str | None)
    assert_type(payment.amount, int | None)
    assert_type(payment.offset, int | None)
    assert_type(payment.currency, str | None)
    assert_type(payment.sender, str | None)
    assert_type(payment.transaction_id, str | None)
    assert_type(payment.transaction_type, str | None)
    assert_type(payment.transaction_status, str | None)
    assert_type(payment.transaction_created_at, datetime | None)
    assert_type(payment.transaction_updated_at, datetime | None)
    assert_type(payment.transaction_error, Fault | None)


def phones(phone: Phone) -> None:
    assert_type(phone.phone, str | None)
    assert_type(phone.type, str | None)
    assert_type(phone.wa_id, str | None)
    assert_type(phone.user_id, str | None)


def places(place: Place) -> None:
    assert_type(place.latitude, float | None)
    assert_type(place.longitude, float | None)
    assert_type(place.name, str | None)
    assert_type(place.address, str | None)
    assert_type(place.url, str | None)


def referrals(referral: Referral) -> None:
    assert_type(referral.source_url, str | None)
    assert_type(referral.source_id, str | None)
    assert_type(referral.source_type, str | None)
    assert_type(referral.headline, str | None)
    assert_type(referral.body, str | None)
    assert_type(referral.media_type, str | None)
    assert_type(referral.image_url, str | None)
    assert_type(referral.video_url, str | None)
    assert_type(referral.thumbnail_url, str | None)
    assert_type(referral.ctwa_clid, str | None)
    assert_type(referral.welcome, str | None)


def what_is_no_event(broken: Broken) -> None:
    assert_type(broken.reason, str)
    assert_type(broken.kind, str)
    assert_type(broken.body, bytes)
    assert_type(broken.detail, str)
    assert_type(broken.received_ms, int)
    assert_type(broken.attempt, int)


def what_mypy_must_refuse(message: Message, fault: Fault) -> None:
    message.text.upper()  # type: ignore[union-attr]
    message.no_such_attribute  # type: ignore[attr-defined]  # noqa: B018
    message.text = "other"  # type: ignore[misc]
    fault.code = 1  # type: ignore[misc]
