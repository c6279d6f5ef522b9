"""Handlers for test_compose.py: every call is a line on standard output. A message `slow` takes 30 ms."""

import time

from workers import Change, Error, Handlers, Message, Status

handlers = Handlers()


def say(event: Message | Status | Error | Change) -> None:
    print(f"handled {event.kind} {event.id}\n", end="", flush=True)  # in one piece: several threads print


@handlers.message()
def on_message(message: Message) -> None:
    if message.text == "slow":
        time.sleep(0.03)
    say(message)


@handlers.status()
@handlers.error()
@handlers.change()
def on_other(event: Status | Error | Change) -> None:
    say(event)
