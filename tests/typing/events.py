"""What each attribute of an event is to a type checker. tests/workers/test_public.py sees that none is missing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, assert_type

from workers import Broken, Change, Conversation, Error, Event, Fault, Media, Message, Pricing, Profile, Status

Object = dict[str, Any]


def all_events(event: Event) -> None:
    assert_type(event.kind, Literal["message", "status", "error", "change", "profile"])
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
