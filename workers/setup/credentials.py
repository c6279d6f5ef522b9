"""Secrets for the senders' APIs: from the environment or a file, never from the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from workers.setup.api import ApiError


def from_environment(name: str) -> str | None:
    """The variable NAME, or what the file holds that NAME_FILE names. None when neither is set. Raises ApiError."""
    if value := os.environ.get(name):
        if not _is_text(value):
            raise ApiError(f"{name} is not text in UTF-8")
        return value
    path = os.environ.get(f"{name}_FILE")
    return from_file(Path(path), f"{name}_FILE") if path else None


def from_file(path: Path, named: str) -> str:
    """What a file holds, without the line end. `named` is the option or variable that names the file. Raises ApiError,
    also when the file is empty.
    """
    try:
        found = path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ApiError(f"{named}: cannot read {path}: {reason}") from None
    if not found:
        raise ApiError(f"{named}: {path} is empty; write the value into it")
    return found


def _is_text(value: str) -> bool:
    """Python keeps other bytes of the environment as surrogates, which nothing can encode."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def bearer(token: str, named: str) -> dict[str, str]:
    """The header that carries a token. Raises ApiError when it holds what no header may."""
    if not re.fullmatch(r"[!-~]+", token):
        raise ApiError(f"{named} holds white space or other characters that no token has")
    return {"Authorization": f"Bearer {token}"}
