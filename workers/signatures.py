"""Whether a function can be called as it will be: known when it is registered, not at the first event."""

from __future__ import annotations

import inspect
from typing import Any

from workers.raised import WrongType


def check_arguments(decorator: str, function: Any, *arguments: str) -> None:
    """Raise WrongType for what cannot be called with these arguments, in this order."""
    if not callable(function):
        raise WrongType(f"{decorator}: {function!r} is no function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of C, and it does not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        given = ", ".join(arguments)
        raise WrongType(
            f"{decorator}: {name}{_bare(signature)} is called with {given or 'no argument'}: write def {name}({given})"
        ) from None


def _bare(signature: inspect.Signature) -> str:
    """The names of the arguments alone."""
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
