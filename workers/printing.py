"""Prints what arrives: the handlers that run when WA_HANDLERS names no others. Copy it and put your own code in."""

from workers import Change, Error, Handlers, Message, Profile, Status

handlers = Handlers()


@handlers.message()
def on_message(message: Message) -> None:
    print(f"message  {message.type} from {message.sender}: {message.text or ''}", flush=True)


@handlers.status()
async def on_status(status: Status) -> None:
    print(f"status   {status.status} of {status.id}", flush=True)


@handlers.error()
def on_error(error: Error) -> None:
    print(f"error    {error.code} {error.title}", flush=True)


@handlers.profile()
def on_profile(profile: Profile) -> None:
    print(f"profile  {profile.contact}: {', '.join(sorted(profile.changed))} changed", flush=True)


@handlers.change()
def on_change(change: Change) -> None:
    print(f"change   {change.field} of account {change.account}", flush=True)
