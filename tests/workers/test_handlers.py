from __future__ import annotations

import functools
import math
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from workers import Change, Handlers, RetryIn, Snooze
from workers.events import Event
from workers.events.parsing import parse
from workers.loading import load
from workers.raised import HandlersError, WrongType, WrongValue


def _event(body: bytes) -> Event:
    (event,) = parse(body, 0)
    assert isinstance(event, Event)
    return event


def test_every_matching_handler_in_order(message: Callable[..., bytes], status: Callable[..., bytes]) -> None:
    """All handlers that match are called, in the order of registration, and no others."""
    handlers = Handlers()
    called: list[str] = []
    handlers.message("image")(lambda e: called.append("image"))
    handlers.message("text", "button")(lambda e: called.append("text"))
    handlers.message()(lambda e: called.append("any"))
    handlers.status("read")(lambda e: called.append("read"))
    handlers.error()(lambda e: called.append("error"))
    for handler, event in handlers.calls(_event(message())):
        handler.call(event)
    assert called == ["text", "any"]
    assert handlers.calls(_event(status())) == []
    assert len(handlers.calls(_event(status(status="read")))) == 1


def test_registration_after_use_counts(message: Callable[..., bytes]) -> None:
    """What was looked up before does not hide a handler that is registered later."""
    handlers = Handlers()
    assert handlers.calls(_event(message())) == []
    handlers.message()(print)
    assert len(handlers.calls(_event(message()))) == 1


def test_no_long_type_is_remembered(message: Callable[..., bytes]) -> None:
    """Types of messages that a sender invents call their handlers, and take no memory for good."""
    handlers = Handlers()
    handlers.message()(print)
    tracemalloc.start()
    try:
        for n in range(30):
            assert len(handlers.calls(_event(message(type=f"{n}" * 500_000)))) == 1
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


def test_change_fields() -> None:
    """A change goes to the handlers of its field, also when the sender left the field out."""
    handlers = Handlers()
    handlers.change("account_update")(print)
    handlers.change()(repr)
    with_field = _event(b'{"entry":[{"id":"1","changes":[{"field":"account_update","value":{}}]}]}')
    without = _event(b'{"entry":[{"id":"1","changes":[{"value":{}}]}]}')
    assert [h.call for h, _ in handlers.calls(with_field)] == [print, repr]
    assert [h.call for h, _ in handlers.calls(without)] == [repr]


def test_news_of_a_profile(message: Callable[..., bytes]) -> None:
    """A system message that says that a number changed goes to message and profile handlers."""
    handlers = Handlers()
    seen: list[str] = []
    handlers.message("system")(lambda e: seen.append(e.kind))
    handlers.profile()(lambda e: seen.append(e.kind))
    body = message(type="system", system={"type": "user_changed_number", "new_wa_id": "15550002"})
    for handler, event in handlers.calls(_event(body)):
        handler.call(event)
    assert seen == ["message", "profile"]


def _cloud(field: str = "messages", number: str = "1", **value: Any) -> bytes:
    value = {"metadata": {"phone_number_id": number, "display_phone_number": "77"}, **value}
    return orjson.dumps({"entry": [{"id": "1", "changes": [{"field": field, "value": value}]}]})


ECHO = {"from": "77", "to": "1555", "type": "text", "text": {"body": "hi"}}
OLD = {"history": [{"threads": [{"id": "1555", "messages": [{"from": "1555", "type": "text"}]}]}]}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (_cloud(messages=[{"from": "1555", "type": "text"}]), {"in", "both"}),
        (_cloud(messages=[{"to": "1555", "type": "text", "_vnd": {"v1": {"direction": "outbound"}}}]), {"out", "both"}),
        (_cloud(message_echoes=[ECHO]), {"out", "both"}),
        (_cloud("smb_message_echoes", message_echoes=[ECHO]), {"out", "both", "change"}),
        (_cloud("history", **OLD), {"old", "old both"}),
        (_cloud("history", messages=[{"from": "1555", "type": "text"}]), {"old", "old both", "change"}),
        (_cloud("history", messages=[{"from": "77", "type": "text"}]), {"old both", "change"}),
        (_cloud("standby", standby={"messages": [{"from": "1555", "type": "text"}]}), {"in", "both", "change"}),
        (_cloud("calls", calls=[{"from": "1555", "event": "connect"}]), {"call", "change"}),
        (_cloud(calls=[{"from": "1555", "event": "CONNECT"}]), {"call"}),
        (_cloud("messaging_handovers", sender={"phone_number": "1555"}), {"handover", "change"}),
        (_cloud("user_preferences", user_preferences=[{"wa_id": "1555", "value": "stop"}]), {"preference", "change"}),
        (_cloud(user_actions=[{"timestamp": "5"}]), {"change"}),
        (_cloud("calls", errors=[{"code": 1}]), {"error", "change"}),
    ],
)
def test_who_gets_what(body: bytes, wanted: set[str]) -> None:
    """Handlers of messages get what contacts write now, unless they ask; what comes in another field is a change."""
    handlers = Handlers()
    registered: dict[str, Any] = {
        "in": handlers.message("text"),
        "out": handlers.message("text", direction="out"),
        "both": handlers.message(direction="both"),
        "old": handlers.message(history=True),
        "old both": handlers.message(history=True, direction="both"),
        "call": handlers.call("connect"),
        "handover": handlers.handover(),
        "preference": handlers.preference("stop"),
        "error": handlers.error(),
        "change": handlers.change(),
    }
    for name, register in registered.items():
        register(functools.partial(str, name))
    calls = handlers.calls(_event(body))
    assert {handler.function.args[0] for handler, _ in calls} == wanted  # type: ignore[attr-defined]
    for handler, event in calls:
        assert event.kind == handler.kind


def test_a_change_holds_one_event_alone() -> None:
    """Of ten echoes each is a change with that echo and its contact, so that one that fails is tried again alone."""
    handlers = Handlers()
    handlers.change("smb_message_echoes")(print)
    contacts = [{"wa_id": str(n)} for n in range(10)]
    echoes = [{"to": str(n), "id": f"e{n}"} for n in range(10)]
    body = _cloud("smb_message_echoes", contacts=contacts, message_echoes=echoes)
    for n, event in enumerate(parse(body, 0)):
        assert isinstance(event, Event)
        ((_, change),) = handlers.calls(event)
        assert isinstance(change, Change)
        assert (change.value["contacts"], change.value["message_echoes"]) == ([contacts[n]], [echoes[n]])
        assert (change.field, change.business, change.account) == ("smb_message_echoes", "1", "1")


def test_handlers_of_one_business_number() -> None:
    """A handler with `business` gets the events of these numbers, whatever the kind; without it, of all."""
    handlers = Handlers()
    registered: list[Any] = [handlers.message(business="1"), handlers.status(business=["1", "2"]), handlers.message()]
    registered += [handlers.profile(business="2"), handlers.change(business="3"), handlers.call(business=("2",))]
    for register in registered:
        register(print)
    found = {}
    for number in ("1", "2", "3"):
        system = {"from": "1", "type": "system", "system": {"type": "user_changed_number", "wa_id": "2"}}
        items = parse(_cloud("calls", number, messages=[system], statuses=[{"type": "message"}], calls=[{}]), 0)
        calls = [call for item in items if isinstance(item, Event) for call in handlers.calls(item)]
        found[number] = [event.kind for _, event in calls]
    assert found == {
        "1": ["message", "message"],
        "2": ["message", "profile", "call", "call"],
        "3": ["message", "change", "change", "change"],
    }
    onprem = _event(b'{"messages":[{"from":"1"}]}')
    assert len(handlers.calls(onprem)) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"business": 5}, "business=5 is no id of a business number"),
        ({"business": ["1", 5]}, "is no id of a business number"),
        ({"business": ""}, "names no business number"),
        ({"business": []}, "names no business number"),
        ({"direction": "sideways"}, "direction='sideways' is none of in, out, both"),
    ],
)
def test_what_no_handler_can_be_for(arguments: Any, error: str) -> None:
    """A decorator says at once what is wrong with its arguments."""
    with pytest.raises(HandlersError, match=re.escape(error)):
        Handlers().message(**arguments)


def test_async_is_recognised() -> None:
    """`async def`, a partial of one and an object with `async def __call__` need a loop; plain functions do not."""

    async def coroutine(_: object) -> None: ...

    class Object:
        async def __call__(self, _: object) -> None: ...

    for function in (coroutine, functools.partial(coroutine), Object()):
        handlers = Handlers()
        handlers.message()(function)
        assert handlers.any_async
    handlers = Handlers()
    handlers.message()(print)
    assert not handlers.any_async


def test_decorator_without_parentheses() -> None:
    """`@handlers.message` without parentheses is refused at once, not silently ignored."""
    with pytest.raises(TypeError, match=r"write @handlers\.message"):
        Handlers().message(print)  # type: ignore[arg-type]


def nothing() -> None: ...


def two(one: object, other: object) -> None: ...


@pytest.mark.parametrize(
    ("register", "function", "says"),
    [
        (lambda h: h.message(), nothing, "@handlers.message: nothing() is called with event: write def nothing(event)"),
        (lambda h: h.status(), two, "@handlers.status: two(one, other) is called with event: write def two(event)"),
        (lambda h: h.status(bulk=5), nothing, "@handlers.status: nothing() is called with events: write def"),
        (lambda h: h.message(), 5, "@handlers.message: 5 is no function"),
        (lambda h: h.startup, two, "@handlers.startup: two(one, other) is called with no argument: write def two()"),
        (lambda h: h.shutdown, two, "@handlers.shutdown: two(one, other) is called with no argument"),
        (lambda h: h.around, nothing, "@handlers.around: nothing() is called with event"),
        (lambda h: h.on_error, two, "@handlers.on_error: two(one, other) is called with event, exception, attempt"),
    ],
)
def test_a_function_that_cannot_be_called(register: Any, function: Any, says: str) -> None:
    """A function that does not take what it will be called with is refused where it is registered, in one line."""
    with pytest.raises(WrongType) as caught:
        register(Handlers())(function)
    assert str(caught.value).startswith(says)


def test_functions_that_can_be_called() -> None:
    """More arguments with defaults, any number of them, methods, partials and functions of C are all right."""

    class Bot:
        def answer(self, event: object) -> None: ...

    handlers = Handlers()
    for function in (Bot().answer, functools.partial(two, 1), lambda event, more=1: None, lambda *all: None, print):
        handlers.message()(function)
    assert len(handlers) == 5


@pytest.mark.parametrize("wait", [RetryIn, Snooze])
@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_what_is_no_time_to_wait(wait: type[RetryIn | Snooze], seconds: float) -> None:
    """RetryIn and Snooze refuse it where they are made, by their names."""
    with pytest.raises(ValueError, match=f"{wait.__name__} takes seconds"):
        wait(seconds)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the module `bot` into the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "bot"]:
        monkeypatch.delitem(sys.modules, name)

    def write(text: str) -> None:
        (tmp_path / "bot.py").write_text(text)

    return write


def test_load_from_the_working_folder(module: Callable[[str], None]) -> None:
    """`module:object` is found in the working folder, and the object may be an attribute of another."""
    module("from workers import Handlers\nclass app:\n    handlers = Handlers()\n")
    assert isinstance(load("bot:app.handlers"), Handlers)


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("", "nobot:handlers", "there is no module 'nobot'"),
        ("", "bot.sub:handlers", "there is no module 'bot.sub'"),
        ("handlers = 1", "bot:handlers", "'handlers' in that module is no"),
        ("", "bot:handlers", "'handlers' in that module is no"),
    ],
)
def test_load_names_what_is_wrong(module: Callable[[str], None], text: str, path: str, says: str) -> None:
    """A wrong WA_HANDLERS gets one line that names it."""
    module(text)
    with pytest.raises(HandlersError) as caught:
        load(path)
    assert says in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error"), [("import nothing_of_that_name", ModuleNotFoundError), ("1/0", ZeroDivisionError)]
)
def test_load_passes_the_modules_own_error_on(module: Callable[[str], None], text: str, error: type[Exception]) -> None:
    """An error inside the user's module is theirs to see, not ours to rename."""
    module(text)
    with pytest.raises(error):
        load("bot:handlers")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rate": "fast"}, ValueError, "@handlers.message: rate='fast' is no rate: give a number above 0 per second"),
        ({"rate": "0/s"}, ValueError, "@handlers.message: rate='0/s' is no rate"),
        ({"rate": 50}, TypeError, '@handlers.message: rate=50 is no text such as "50/s"'),
        ({"concurrency": 0}, ValueError, "@handlers.message: concurrency=0 is less than 1"),
        ({"concurrency": "4"}, TypeError, "@handlers.message: concurrency='4' is no whole number"),
        ({"concurrency": True}, TypeError, "@handlers.message: concurrency=True is no whole number"),
        ({"bluk": 5}, TypeError, "@handlers.message knows no bluk"),
        ({"bulk": 0}, ValueError, "@handlers.message: bulk=0 is less than 1"),
        ({"bulk": True}, TypeError, "@handlers.message: bulk=True is no whole number"),
        ({"bulk": "500"}, TypeError, "@handlers.message: bulk='500' is no whole number"),
        ({"linger": 0.2}, ValueError, "@handlers.message: linger=0.2 needs bulk, the most events of a list"),
        ({"bulk": 5, "linger": -1}, ValueError, "@handlers.message: linger=-1 is no number of seconds, 0 or more"),
        ({"bulk": 5, "linger": math.inf}, ValueError, "@handlers.message: linger=inf is no number of seconds"),
        ({"bulk": 5, "linger": "1s"}, TypeError, "@handlers.message: linger='1s' is no number of seconds"),
        ({"strict_order": 1}, TypeError, "@handlers.message: strict_order=1 is neither True nor False"),
        ({"strict_order": True, "history": True}, ValueError, "@handlers.message: messages of the history come in no"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """A rate, a concurrency or a bulk that is none is refused where it is written, in one sentence."""
    with pytest.raises(error) as caught:
        Handlers().message("text", **options)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_every_decorator_takes_them() -> None:
    """Rate and concurrency are known of each kind of handler; without them nothing is throttled."""
    handlers = Handlers()
    for decorator in (handlers.message, handlers.status, handlers.error, handlers.profile, handlers.change):
        decorator()(print)
        assert not handlers.any_throttled or handlers.registered[-2].is_throttled
        decorator(rate="30/m", concurrency=4)(print)
        assert handlers.any_throttled
    assert [(one.rate, one.concurrency) for one in handlers.registered] == [(None, None), (0.5, 4)] * 5


def test_every_decorator_but_profile_takes_bulk() -> None:
    """News of a profile comes by itself, and the error says so; all else may come in lists."""
    handlers = Handlers()
    on = handlers
    for decorator in (on.message, on.status, on.error, on.change, on.call, on.handover, on.preference):
        decorator(bulk=500, linger=0.2)(print)
        assert (on.registered[-1].bulk, on.registered[-1].linger) == (500, 0.2)
    with pytest.raises(WrongValue, match=r"@handlers\.profile: bulk and linger are for events"):
        handlers.profile(bulk=500)  # type: ignore[call-arg]


def test_strict_order() -> None:
    """What contacts do can be in strict order; it is known of each handler, and asked for by those not done yet."""
    handlers = Handlers()
    for decorator in (handlers.message, handlers.call, handlers.handover, handlers.preference):
        decorator()(print)
    assert not handlers.any_strict_order
    for decorator in (handlers.message, handlers.call, handlers.handover, handlers.preference):
        decorator(strict_order=True)(print)
    assert handlers.any_strict_order
    assert [one.strict_order for one in handlers.registered] == [False] * 4 + [True] * 4
    with pytest.raises(WrongValue, match=r"@handlers\.status: strict_order is for what contacts do"):
        handlers.status(strict_order=True)  # type: ignore[call-overload]
    (event,) = parse(b'{"messages":[{"from":"15550001","id":"m","type":"text"}]}', 0)
    plain, strict = handlers.of_kinds("message")
    assert handlers.in_strict_order(event, {plain.digest})
    assert not handlers.in_strict_order(event, {strict.digest})
