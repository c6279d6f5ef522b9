"""Prints what arrives: the handlers that run when WA_HANDLERS names no others. Copy it and put your own code in."""

from ingest.telemetry.printable import printable
from workers import Call, Change, Error, Handlers, Handover, Message, Preference, Profile, Status

handlers = Handlers()


def _say(line: str) -> None:
    # What senders write could steer the terminal. In one piece, because several threads print.
    print(printable(line) + "\n", end="", flush=True)


@handlers.message(direction="both")
def on_message(message: Message) -> None:
    who = f"from {message.sender}" if message.direction == "in" else f"to {message.recipient}"
    _say(f"message  {message.type} {who}: {message.text or ''}")


@handlers.status()
async def on_status(status: Status) -> None:
    _say(f"status   {status.status} of {status.id}")


@handlers.error()
def on_error(error: Error) -> None:
    _say(f"error    {error.code} {error.title}")


@handlers.profile()
def on_profile(profile: Profile) -> None:
    _say(f"profile  {profile.contact}: {', '.join(sorted(profile.changed))} changed")


@handlers.call()
def on_call(call: Call) -> None:
    _say(f"call     {call.event} of {call.contact_id}")


@handlers.handover()
def on_handover(handover: Handover) -> None:
    _say(f"handover {handover.type} of {handover.contact_id}, to {handover.new_owner}")


@handlers.preference()
def on_preference(preference: Preference) -> None:
    _say(f"wants    {preference.value} {preference.category} for {preference.contact_id}")


@handlers.change()
def on_change(change: Change) -> None:
    _say(f"change   {change.field} of account {change.account}")
