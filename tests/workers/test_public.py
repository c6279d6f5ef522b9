"""What users import is all that they need, typed, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

import workers
import workers.events
import workers.raised
import workers.testing
from workers.raised import HandlersError

ROOT = Path(__file__).parents[2]
TYPED = (ROOT / "tests/typing/events.py").read_text()

INSIDE = {"Envelope", "Facts", "Notification", "People"}
KINDS_OF_THE_ABOVE = {"CallStatus", "ChatEvent", "Echo", "Historic", "Part", "Sent"}
NOT_FOR_HANDLERS = INSIDE | KINDS_OF_THE_ABOVE
"""Public classes of `workers.events` that no handler gets, or gets as another class."""


def public(module: ModuleType) -> dict[str, Any]:
    """What stands in a module without an underscore, but for modules."""
    return {n: v for n, v in vars(module).items() if n[0] != "_" and not inspect.ismodule(v)}


def members(class_: type) -> dict[str, Any]:
    """The public attributes that a class itself has, each with its type; None for a method."""
    found = {n: t for n, t in get_type_hints(class_).items() if n in inspect.get_annotations(class_)}
    for name, value in vars(class_).items():
        if isinstance(value, property):
            found[name] = get_type_hints(value.fget)["return"]
        elif inspect.isfunction(value) or inspect.ismemberdescriptor(value) or name == "kind":
            found.setdefault(name, None)
    return {name: type_ for name, type_ in found.items() if name[0] != "_"}


def ours(type_: Any) -> Iterator[type]:
    """The classes of this project in a type."""
    if inspect.isclass(type_) and type_.__module__.partition(".")[0] in ("workers", "ingest"):
        yield type_
    for part in get_args(type_):
        yield from ours(part)


@pytest.mark.parametrize("module", [workers, workers.events])
def test_all_is_what_is_there(module: ModuleType) -> None:
    """`__all__` names, in order, what can be imported, and nothing but that can be imported."""
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) == set(public(module))


def test_the_classes_of_events_are_exported() -> None:
    """Every public class in a file of `workers.events` can be imported from there and from `workers`."""
    there = set(NOT_FOR_HANDLERS)
    for found in pkgutil.iter_modules(workers.events.__path__, "workers.events."):
        module = importlib.import_module(found.name)
        there |= {n for n, v in public(module).items() if inspect.isclass(v) and v.__module__ == found.name}
    assert there - NOT_FOR_HANDLERS == set(workers.events.__all__)
    assert set(workers.events.__all__) <= set(workers.__all__)


def test_what_a_handler_may_raise_is_exported() -> None:
    """What means something when a handler raises it is exported; other errors are not."""
    errors = [v for v in public(workers.raised).values() if inspect.isclass(v) and issubclass(v, Exception)]
    raised = {error.__name__ for error in errors if not issubclass(error, HandlersError)}
    ours = {"DestinationError", "Unreachable"}
    assert raised - ours == {"Discard", "PartialFailure", "Reject", "RetryIn", "Snooze"} <= set(workers.__all__)


@pytest.mark.parametrize("name", workers.events.__all__)
def test_what_can_be_read_is_exported_and_typed(name: str) -> None:
    """Whatever an attribute of an event gives is of a builtin or an exported type, which tests/typing pins."""
    class_ = getattr(workers.events, name)
    for member, type_ in members(class_).items():
        assert {found.__name__ for found in ours(type_)} <= set(workers.__all__), member
        assert f"assert_type({name.lower()}.{member}" in TYPED, f"tests/typing/events.py misses {name}.{member}"


def test_workers_testing() -> None:
    """`workers.testing` says what is for users."""
    assert workers.testing.__all__ == ["Called", "call"]
