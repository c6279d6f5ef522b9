"""A destination, as WA_DESTINATIONS describes it: where to post, what, and how."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from ingest.settings.types import Seconds
from ingest.state import rates

Kind = Literal["message", "status", "error", "change", "call", "handover", "preference"]
KINDS: tuple[Kind, ...] = ("message", "status", "error", "change", "call", "handover", "preference")

_NARROWED: dict[str, Kind] = {"types": "message", "statuses": "status", "fields": "change"}
"""What names some events of one kind."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _url(value: str) -> str:
    found = urlsplit(value)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError("give an address such as https://crm.example/webhook")
    if found.username or found.password:
        raise ValueError('give a password as headers = {Authorization = "Basic ${CRM_BASIC}"}, not in the address')
    return value


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _rate(value: Any) -> Any:
    return rates.per_second(value) if isinstance(value, str) else value


def _expanded(value: str) -> str:
    """With `${NAME}` replaced by that environment variable."""
    return _VARIABLE.sub(_environment, value)


def _headers(values: dict[str, str]) -> dict[str, str]:
    return {name: _expanded(value) for name, value in values.items()}


def _secret(value: Any) -> Any:
    return _expanded(value) if isinstance(value, str) else value


def _environment(name: re.Match[str]) -> str:
    if (value := os.environ.get(name[1])) is None:
        raise ValueError(f"the environment has no {name[1]}: set it, or take ${{{name[1]}}} out")
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_list)]


class Destination(BaseModel):
    """One `[[destination]]` of the file; docs/destinations.md describes each key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    url: Annotated[str, AfterValidator(_url)]
    secret: Annotated[SecretStr | None, BeforeValidator(_secret)] = None
    secret_file: Path | None = None
    kinds: Annotated[tuple[Kind, ...] | None, BeforeValidator(_list)] = None
    types: Words = ()
    statuses: Words = ()
    fields_: Annotated[Words, Field(alias="fields")] = ()
    business: Words = ()
    rate: Annotated[float | None, BeforeValidator(_rate)] = None
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 20
    timeout: Seconds = 10.0
    bulk: Annotated[int | None, Field(ge=1, le=10_000)] = None
    linger: Annotated[float, Field(ge=0, le=60)] = 0.0
    strict_order: bool = False
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = {}
    body: Literal["event", "notification"] = "event"
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Destination:
        if self.secret and self.secret_file:
            raise ValueError("give secret or secret_file, not both")
        if self.linger and not self.bulk:
            raise ValueError("linger needs bulk, the most events of a list")
        if self.client_key and not self.client_cert:
            raise ValueError("client_key needs client_cert")
        for key, kind in _NARROWED.items():
            if self.kinds is not None and self._named(key) and kind not in self.kinds:
                raise ValueError(f'{key} needs "{kind}" among kinds')
        return self

    @property
    def wants(self) -> dict[str, frozenset[str]]:
        """For each kind of event that it gets, which of them: types, statuses or fields; empty: all.

        Without `kinds`, those of which it names some; if it names none, every kind.
        """
        named = {kind: frozenset(self._named(key)) for key, kind in _NARROWED.items()}
        kinds = self.kinds or [kind for kind in KINDS if named.get(kind)] or KINDS
        return {kind: named.get(kind, frozenset()) for kind in kinds}

    @property
    def key(self) -> bytes | None:
        """What its posts are signed with. Raises OSError, UnicodeDecodeError."""
        if self.secret_file is not None:
            return self.secret_file.read_text().strip().encode()
        return self.secret.get_secret_value().encode() if self.secret else None

    def _named(self, key: str) -> tuple[str, ...]:
        found: tuple[str, ...] = getattr(self, "fields_" if key == "fields" else key)
        return found
