"""Prints what arrives: the handlers that run when WA_HANDLERS names no others. Copy it and put your own code in."""

from workers import Change, Error, Handlers, Message, Profile, Status

handlers = Handlers()


def _say(line: str) -> None:
    print(line + "\n", end="", flush=True)  # in one piece: several threads print


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
