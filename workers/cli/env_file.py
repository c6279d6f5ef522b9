"""The file `.env` of the working folder, which Docker Compose reads as well: variables for `wa-ingest` there."""

from __future__ import annotations

import os
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

import click
from dotenv import dotenv_values
from dotenv.parser import parse_stream

from ingest.terminal import aside

FILE = Path(".env")

_IMAGE = "INGEST_IMAGE"
"""In the environment of the image: there Compose or Kubernetes gives all variables, and the file, which lies in the
folder of the handlers, has others, such as the ports of an `up` outside.
"""

_NEAR = 0.9  # WA_APP_SECERT is; WA_WORKER_PROCESSES, a variable of Compose's file, is not

taken: set[str] = set()
"""The variables that come from it: the environment says nothing else of them."""


def take() -> None:
    """Take its variables, but those that the environment has. Raises click.ClickException when it cannot be read.

    Nothing is taken in the image. All of them are, since what handlers need stands there, too. What is no assignment is
    left out, with a warning.
    """
    # `.env` is also what some call a folder with an environment of Python.
    if _IMAGE in os.environ or not FILE.is_file():
        return
    try:
        text = FILE.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise click.ClickException(f"{FILE} in this folder cannot be read: {reason}") from None
    bindings = list(parse_stream(StringIO(text)))
    for wrong in (binding.original for binding in bindings if binding.error):
        blank = wrong.string[: -len(wrong.string.lstrip())].count("\n")  # lines before it count as its own
        aside(f"Warning: line {wrong.line + blank} of {FILE} is left out: it is not NAME=value")
    good = "".join(binding.original.string for binding in bindings if not binding.error)
    for name, value in dotenv_values(stream=StringIO(good)).items():
        if value is not None and not is_set(name):
            os.environ[name] = value
            taken.add(name)


def misspelt() -> dict[str, str]:
    """Variables that are no setting, though they have its prefix, and which setting may be meant; empty: none.

    The file also has variables of Compose's own: of what comes from it those alone that are nearly a setting.
    """
    from ingest.settings import Settings, unknown_variables, variable  # `--help` needs none of it

    known = [variable(field) for field in Settings.model_fields]
    near = {name: "".join(get_close_matches(name, known, 1, _NEAR)) for name in unknown_variables()}
    return {name: meant for name, meant in near.items() if meant or name not in taken}


def is_set(name: str) -> bool:
    """True when the environment says something of this variable, and be it nothing: itself, or by a NAME_FILE."""
    name = name.removesuffix("_FILE")
    return name in os.environ or f"{name}_FILE" in os.environ
