"""What is accepted in a registry, but looks like a mistake: the sets of types are open, so none of it is an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from workers.handler import Handler
from workers.handlers import Handlers

_SUBJECTS = {
    "message": "audio button contacts document edit ephemeral image interactive location media_placeholder order "
    "reaction request_welcome revoke sticker system template text unknown unsupported video voice",
    "status": "deleted delivered failed payment played read sent warning",
    "call": "accepted call_recording_available call_transcription_available connect rejected ringing terminate",
    "handover": "control_passed control_taken",
    "preference": "resume signup stop",
    "change": "account_alerts account_review_update account_settings_update account_update automatic_events "
    "business_capability_update business_status_update business_username_update calls flows group_lifecycle_update "
    "group_participants_update group_settings_update group_status_update history message_echoes "
    "message_template_components_update message_template_quality_update message_template_status_update messages "
    "messaging_handovers partner_solutions payment_configuration_update phone_number_name_update "
    "phone_number_quality_update security smb_app_state_sync smb_message_echoes standby template_category_update "
    "template_correct_category_detection tracking_events user_actions user_id_update user_preferences",
}

KNOWN = {kind: frozenset(names.split()) for kind, names in _SUBJECTS.items()}
"""By kind of event what `subject` is known to be."""

_WORDS = {"message": "message type", "status": "status", "call": "call's event", "change": "field"}


def of(registry: Handlers, name: str) -> list[str]:
    """A line for each doubt about the registry that WA_HANDLERS calls `name`: what it is; what to do."""
    if not len(registry):
        return [f"WA_HANDLERS={name} has no handlers, so every event is dropped; register a function"]
    return [line for handler in registry.registered for line in _unknown(handler)]


def _unknown(handler: Handler) -> Iterator[str]:
    wants = handler.by_kind or {handler.kind: handler.wants}
    for kind, names in wants.items():
        for name in sorted(names - KNOWN.get(kind, names)):
            yield f"{handler.name}: no {_WORDS.get(kind, kind)} {name!r} is known{_meant(name, KNOWN[kind])}"


def _meant(name: str, known: Collection[str]) -> str:
    return meant(name.lower(), known) or "; if it is not new, it never comes"


def meant(name: str, known: Iterable[str]) -> str:
    """Which of the known names was meant, for the end of a message; empty when none is near."""
    from difflib import get_close_matches  # a worker without doubts has no use for it

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
