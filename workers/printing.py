"""Prints what arrives: the handlers that run when WA_HANDLERS names no others. Copy it and put your own code in."""

from ingest.telemetry.printable import printable
from workers import Change, Error, Handlers, Message, Profile, Status

handlers = Handlers()


def _say(line: str) -> None:
    # What senders write could steer the terminal. In one piece, because several threads print.
    print(printable(line) + "\n", end="", flush=True)


@handlers.message()
def on_message(message: Message) -> None:
    _say(f"message  {message.type} from {message.sender}: {message.text or ''}")


@handlers.status()
async def on_status(status: Status) -> None:
    _say(f"status   {status.status} of {status.id}")


@handlers.error()
def on_error(error: Error) -> None:
    _say(f"error    {error.code} {error.title}")


@handlers.profile()
def on_profile(profile: Profile) -> None:
    _say(f"profile  {profile.contact}: {', '.join(sorted(profile.changed))} changed")


@handlers.change()
def on_change(change: Change) -> None:
    _say(f"change   {change.field} of account {change.account}")
