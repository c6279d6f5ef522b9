"""Handlers for test_compose.py: every call is a line on standard output. A message `slow` takes five milliseconds."""

import time

from workers import Change, Error, Handlers, Message, Status

handlers = Handlers()


@handlers.message()
def on_message(message: Message) -> None:
    if message.text == "slow":
        time.sleep(0.005)
    print("handled", message.kind, message.id, flush=True)


@handlers.status()
@handlers.error()
@handlers.change()
def on_other(event: Status | Error | Change) -> None:
    print("handled", event.kind, event.id, flush=True)
