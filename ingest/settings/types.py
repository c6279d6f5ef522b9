"""The types of settings: how a value is written in a variable, and what is wrong with it."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: Any) -> Any:
    """`30`, `30s`, `15m`, `25h` or `7d` as seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
        if not found:
            raise ValueError("give a duration such as 30s, 15m, 25h or 7d")
        return float(found[1]) * _UNITS[found[2] or "s"]
    return value


def _address(value: Any) -> Any:
    """`host:port`, with `[…]` around an IPv6 host."""
    if isinstance(value, str):
        host, colon, port = value.strip().rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ValueError("give host:port, for example 0.0.0.0:8080")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - a bare `:8080` means every address
    return value


def host_port(host: str, port: int) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _comma_list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(value: Any) -> Any:
    """`10.0.0.0/8, 2001:db8::/32, 192.0.2.1`."""
    try:
        return tuple(map(ip_network, _comma_list(value))) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{error}; give networks such as 10.0.0.0/8,2001:db8::/32") from None


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _handlers_name(value: str) -> str:
    if re.fullmatch(r"([\w.]+|.+\.py):[\w.]+", value):
        return value
    given = value.partition(":")[0]
    module = given if re.fullmatch(r"[\w.]+|.+\.py", given) else "bot"
    raise ValueError(f"give module:object or path/to/file.py:object, for example {module}:handlers")


def _some_secret(value: SecretStr) -> SecretStr:
    """A list of nothing, such as `,`, must not read as "no signature wanted"."""
    if not secrets(value):
        raise ValueError("holds no secret; unset it, or give one")
    return value


def _credentials(value: SecretStr) -> SecretStr:
    if any(b":" not in one for one in secrets(value)):
        raise ValueError("give USER:PASSWORD; commas separate several, so neither part may contain one")
    return value


def _url_path(value: str) -> str:
    if "+" in value:
        raise ValueError("holds a +, which Meta turns into a space: name the path without one")
    if not re.fullmatch(r"/[^\s?#]*", value):
        raise ValueError("give a path such as /webhook, without spaces, ? and #")
    return value


def _header_secrets(value: SecretStr) -> SecretStr:
    if not all(re.fullmatch(rb"[A-Za-z0-9_-]+:\s*[!-~](?:[ -~]*[!-~])?", one) for one in secrets(value)):
        raise ValueError("give NAME:VALUE, for example X-Webhook-Key:SECRET; commas separate several")
    return value


def header_secrets(value: SecretStr | None) -> list[tuple[str, list[bytes]]]:
    """The headers of which a POST must carry one, each with the values that it may have."""
    found: dict[str, list[bytes]] = {}
    for one in secrets(value):
        name, _, wanted = one.partition(b":")
        found.setdefault(name.decode().lower(), []).append(wanted.strip())
    return list(found.items())


def _header_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name in value):
        raise ValueError("give names of headers, comma separated, for example X-Turn-Event,X-WhatsApp-Id")
    return tuple(dict.fromkeys(name.lower() for name in value))


def _segments(value: SecretStr) -> SecretStr:
    if not all(re.fullmatch(rb"[A-Za-z0-9._~-]{16,}", one) for one in secrets(value)):
        raise ValueError("give 16 characters or more of A-Z a-z 0-9 . _ ~ - (try: openssl rand -hex 24)")
    return value


def _tokens(value: SecretStr) -> SecretStr:
    if not all(re.fullmatch(rb"[!-~]{16,}", one) for one in secrets(value)):
        raise ValueError("give 16 or more printable ASCII characters without spaces (try: openssl rand -hex 24)")
    return value


def _http_url(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?]\S*)?", value.get_secret_value()):
        raise ValueError("give a URL such as https://hooks.slack.com/services/…")
    return value


def secrets(value: SecretStr | None) -> list[bytes]:
    """The secrets of a comma separated setting; none when it is unset."""
    return [part.encode() for part in _comma_list(value.get_secret_value())] if value else []


def _duration_text(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.12g}{unit}"
    return f"{seconds:.12g}s"


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0), PlainSerializer(_duration_text)]
Address = Annotated[
    tuple[str, int],
    NoDecode,
    BeforeValidator(_address),
    PlainSerializer(lambda address: host_port(*address)),
]
Size = Annotated[ByteSize, Field(gt=0), PlainSerializer(lambda size: ByteSize(size).human_readable())]
Lanes = Annotated[
    tuple[Literal["messages", "statuses", "other"], ...],
    NoDecode,
    BeforeValidator(_comma_list),
    Field(min_length=1),
    PlainSerializer(",".join),
]
Secrets = Annotated[SecretStr, AfterValidator(_some_secret)]
Credentials = Annotated[Secrets, AfterValidator(_credentials)]
HeaderSecrets = Annotated[Secrets, AfterValidator(_header_secrets)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
PathSecrets = Annotated[Secrets, AfterValidator(_segments)]
Tokens = Annotated[Secrets, AfterValidator(_tokens)]
HttpUrl = Annotated[SecretStr, AfterValidator(_http_url)]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    NoDecode,
    BeforeValidator(_networks),
    PlainSerializer(lambda networks: ",".join(map(str, networks)) or None),
]
Names = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^\s:/]+$")], ...],
    NoDecode,
    BeforeValidator(_comma_list),
    PlainSerializer(lambda names: ",".join(names) or None),
]
HeaderNames = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_comma_list),
    AfterValidator(_header_names),
    PlainSerializer(lambda names: ",".join(names) or None),
]
HandlersName = Annotated[str, AfterValidator(_handlers_name)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]


def _durability(value: str) -> str:
    if re.fullmatch(r"redis|fsync|replicas:[1-9][0-9]*", value):
        return value
    raise ValueError(f"give redis, fsync or replicas:N, such as replicas:1, not {value!r}")


Durability = Annotated[str, AfterValidator(_durability)]
