"""The file that keeps the Coreapps' tokens between two commands, readable by its owner alone.

One JSON object: URL of the API to user name, token, and until when that is valid. Passwords are not in it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import orjson

from ingest.store.disk import atomic_write
from workers.setup.api import ApiError

DEFAULT = Path("~/.config/wa-ingest/coreapp-token.json")


class Login(NamedTuple):
    """A user's token. `expires_after` is the API's own text for the time."""

    user: str
    token: str
    expires_after: str


def load(path: Path) -> dict[str, Login]:
    """All logins by API URL, none when there is no file. Raises ApiError, also when others can read the file."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ApiError(f"{path} holds tokens and is open to others: chmod 600 {path}")
            found = orjson.loads(file.read())
        return {api: _login(**login) for api, login in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ApiError(f"{path} cannot be read: {error.strerror}; see --token-file") from None
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        raise ApiError(f"{path} is no token file: delete it, and run `wa-ingest coreapp login`") from None


def _login(*, user: str, token: str, expires_after: str) -> Login:
    if not all(isinstance(value, str) for value in (user, token, expires_after)):
        raise TypeError
    return Login(user, token, expires_after)


def save(path: Path, logins: dict[str, Login]) -> None:
    """Replace the file as a whole, so that no reader sees half of it. Raises ApiError."""
    path = path.resolve()
    content = orjson.dumps({api: login._asdict() for api, login in logins.items()}, option=orjson.OPT_INDENT_2)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise ApiError(f"{path} cannot be written: {error.strerror}; see --token-file") from None
