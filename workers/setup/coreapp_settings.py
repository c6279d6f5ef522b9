"""The Coreapp's settings that matter for callbacks: which option sets which, and how two states of them differ.

Names, values and defaults are those of the On-Premises API's reference, "Application settings".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from workers.setup.api import https_url

MEDIA = ("audio", "document", "voice", "video", "image", "sticker")
"""What the client can fetch by itself."""

URL = "webhooks.url"

NEED_RESTART = frozenset(
    {"callback_persist", "pass_through", "webhooks.max_concurrent_requests", "db_garbagecollector_enable"}
)
"""Settings that the Coreapp reads at its start only."""


class Option(NamedTuple):
    """An option of `settings apply`, with the dotted name of what it sets."""

    flags: str
    setting: str
    help: str
    type: click.ParamType[Any] | None = None

    @property
    def parameter(self) -> str:
        """The setting's name as Python and click want it."""
        return self.setting.replace(".", "__")


class _Url(click.ParamType[str]):
    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        https_url(value, "--url")
        return str(value)


class _Media(click.ParamType[list[str]]):
    name = "TYPE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        wanted = [part.strip() for part in value.split(",") if part.strip()]
        if unknown := [kind for kind in wanted if kind not in MEDIA]:
            self.fail(f"{unknown[0]} is none of {', '.join(MEDIA)}", param, ctx)
        return wanted


_MS = click.IntRange(1)

OPTIONS = (
    Option("--url", URL, "Where callbacks go: an https URL.", _Url()),
    Option("--sent/--no-sent", "webhooks.message.sent", "Send a status when a message was sent."),
    Option("--delivered/--no-delivered", "webhooks.message.delivered", "Send a status when it was delivered."),
    Option("--read/--no-read", "webhooks.message.read", "Send a status when it was read."),
    Option(
        "--callback-persist/--no-callback-persist",
        "callback_persist",
        "Keep callbacks on disk until they are answered 200 [the client's default: yes]. Needs a restart.",
    ),
    Option(
        "--max-concurrent-requests",
        "webhooks.max_concurrent_requests",
        "Callbacks under way at most [the client's default: 6]. Needs a restart.",
        click.Choice([6, 12, 18, 24]),
    ),
    Option(
        "--callback-backoff-delay-ms",
        "callback_backoff_delay_ms",
        "Step of the wait after a failed callback: the n-th failure waits n steps [3000].",
        _MS,
    ),
    Option("--max-callback-backoff-delay-ms", "max_callback_backoff_delay_ms", "The longest such wait [900000].", _MS),
    Option(
        "--pass-through/--no-pass-through",
        "pass_through",
        "Delete messages from the client's database once they are delivered. Needs a restart.",
    ),
    Option(
        "--auto-download",
        "media.auto_download",
        f"Media the client fetches by itself, comma separated: {', '.join(MEDIA)}; '' for none.",
        _Media(),
    ),
)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"webhooks.url": …}` as the API wants it: `{"webhooks": {"url": …}}`."""
    whole: dict[str, Any] = {}
    for name, value in dotted.items():
        *parents, last = name.split(".")
        place = whole
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return whole


def flattened(whole: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The reverse, sorted by name."""
    flat: dict[str, Any] = {}
    for name, value in sorted(whole.items()):
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def differing(one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The names whose values differ."""
    return [name for name in names if _comparable(one.get(name)) != _comparable(other.get(name))]


def _comparable(value: Any) -> Any:
    """Older clients show numbers as text, and a list's order means nothing."""
    if isinstance(value, list):
        return sorted(map(str, value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def showable(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without a password that somebody has put into the URL."""
    return {name: _masked(value) if name == URL and isinstance(value, str) else value for name, value in flat.items()}


def _masked(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"***@{host}").geturl() if at and user else url
