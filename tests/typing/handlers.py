"""Handlers as users write them: mypy must accept what is right and refuse the rest (`type: ignore` that is not needed
is an error, too).
"""

from __future__ import annotations

from workers import (
    Call,
    Change,
    Discard,
    Error,
    Event,
    Handlers,
    HandlerTimeout,
    Handover,
    Message,
    PartialFailure,
    Preference,
    Profile,
    Reject,
    RetryIn,
    Status,
)

handlers = Handlers()


@handlers.message()
def every_message(message: Message) -> None: ...


@handlers.message("text", "button", rate="50/s", concurrency=4)
async def some_messages(message: Message) -> None:
    if message.text is None:
        raise Discard("no text")
    try:
        ...
    except HandlerTimeout:
        raise RetryIn(60) from None


@handlers.status()
async def every_status(status: Status) -> None: ...


@handlers.status("failed", "read", rate="100/m", concurrency=1)
def some_statuses(status: Status) -> None:
    raise Reject("why")


@handlers.error()
def every_error(error: Error) -> None: ...


@handlers.error(rate="10/h", concurrency=1)
async def every_error_slowly(error: Error) -> None: ...


@handlers.profile()
async def every_profile(profile: Profile) -> None: ...


@handlers.profile(rate="1/s", concurrency=1)
def every_profile_slowly(profile: Profile) -> None: ...


@handlers.change()
def every_change(change: Change) -> None: ...


@handlers.change("account_update", "calls", rate="1/s", concurrency=1)
async def some_changes(change: Change) -> None: ...


@handlers.message(bulk=100)
def many_messages(messages: list[Message]) -> None: ...


@handlers.status("delivered", "read", bulk=500, linger=0.2, rate="1000/s", concurrency=2)
async def many_statuses(statuses: list[Status]) -> None:
    failed: dict[Status, Exception] = {}
    for status in statuses:
        failed[status] = RetryIn(60)
    raise PartialFailure(failed)


@handlers.error(bulk=1)
def many_errors(errors: list[Error]) -> None: ...


@handlers.change("account_update", bulk=10, linger=1)
async def many_changes(changes: list[Change]) -> None: ...


@handlers.call(bulk=10)
async def many_calls(calls: list[Call]) -> None: ...


@handlers.handover(bulk=10)
def many_handovers(handovers: list[Handover]) -> None: ...


@handlers.preference(bulk=10, business="1")
def many_preferences(preferences: list[Preference]) -> None: ...


@handlers.message("text", direction="out", business="106540000000001")
@handlers.message(direction="both", history=True, business=["1", "2"])
def what_the_business_wrote(message: Message) -> None: ...


@handlers.call("connect", business=("1", "2"), rate="1/s", concurrency=1, strict_order=True)
async def every_call(call: Call) -> None: ...


@handlers.handover()
def every_handover(handover: Handover) -> None: ...


@handlers.preference("stop")
def opted_out(preference: Preference) -> None: ...


# One function may take several kinds, by what they have in common. What it returns is not looked at.
@handlers.message()
@handlers.status()
@handlers.error()
@handlers.profile()
@handlers.change()
def count(event: Event) -> int:
    return event.attempt


class Bot:
    def on_message(self, message: Message) -> None: ...


handlers.message("text")(Bot().on_message)


# A decorator gives back what it takes.
def each_stays_what_it_was(message: Message, status: Status, event: Event) -> None:
    every_message(message)
    total: int = count(event)
    every_message(status)  # type: ignore[arg-type]
    del total


@handlers.message()  # type: ignore[type-var]
def not_a_status(status: Status) -> None: ...


@handlers.status()  # type: ignore[type-var]
async def not_a_message(message: Message) -> None: ...


@handlers.error()  # type: ignore[type-var]
def not_a_change(change: Change) -> None: ...


@handlers.profile()  # type: ignore[type-var]
def no_profile(message: Message) -> None: ...


@handlers.change()  # type: ignore[type-var]
def not_an_error(error: Error) -> None: ...


@handlers.message(bulk=10)  # type: ignore[type-var]
def not_a_list(message: Message) -> None: ...


@handlers.status()  # type: ignore[type-var]
def no_bulk(statuses: list[Status]) -> None: ...


@handlers.message()  # type: ignore[type-var]
def no_argument() -> None: ...


@handlers.message  # type: ignore[call-overload]
def no_parentheses(message: Message) -> None: ...


handlers.message(1)  # type: ignore[call-overload]
handlers.message(rate=50)  # type: ignore[call-overload]
handlers.message(concurrency="4")  # type: ignore[call-overload]
handlers.message(strict_order="yes")  # type: ignore[call-overload]
handlers.error("130429")  # type: ignore[call-overload]
handlers.status(linger=0.2)  # type: ignore[call-overload]
handlers.status(strict_order=True)  # type: ignore[call-overload]
handlers.profile(bulk=10)  # type: ignore[call-arg]
handlers.no_such_kind()  # type: ignore[attr-defined]

RetryIn("soon")  # type: ignore[arg-type]
RetryIn()  # type: ignore[call-arg]
