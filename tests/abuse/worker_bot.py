"""Handlers of the worker under attack: what others send is timed, what attackers send does as `DOES` says."""

import os
import time

from workers import Handlers, Message, Reject, Status

handlers = Handlers()
_seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _attacked() -> None:
    match os.environ["DOES"]:
        case "fails":
            raise ValueError
        case "rejects":
            raise Reject("no")
        case "waits":
            time.sleep(0.02)


@handlers.message()
def on_message(message: Message) -> None:
    id = message.id or ""
    if id.startswith("other-"):
        os.write(_seen, f"{time.time() - float(id.removeprefix('other-'))}\n".encode())
    else:
        _attacked()


@handlers.status()
def on_status(status: Status) -> None:
    _attacked()


@handlers.change()
def on_change(change: object) -> None:
    _attacked()
