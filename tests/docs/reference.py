"""docs/settings.md and docs/events.md, generated from the modules: `python -m tests.docs.reference --write`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ingest.settings import Settings, variable
from tests.docs import catalogue, paths
from workers import events as kinds
from workers.events import Event
from workers.events.chat import ChatEvent

DOCS = Path(__file__).parents[2] / "docs"

SECTIONS = {
    "Redis": ("redis_url", "durability"),
    "Your code": (
        "handlers",
        "destinations",
        "handler_timeout",
        "concurrency",
        "threads",
        "stop_seconds",
        "loop",
        "log_level",
        "log_errors",
    ),
    "Listeners": (
        "listen",
        "path",
        "admin_listen",
        "admin_hosts",
        "admin_token",
        "alert_url",
        "worker_metrics_listen",
        "processes",
    ),
    "Who may post": (
        "app_secret",
        "verify_token",
        "basic_auth",
        "header_secret",
        "path_secret",
        "allow_networks",
        "trusted_proxies",
    ),
    "TLS": ("tls_cert", "tls_key", "tls_client_ca", "tls_client_name"),
    "Bounds of the receiver": ("max_body", "body_timeout", "max_pending", "max_connections", "keepalive"),
    "Keeping": ("spool_dir", "keep_headers", "dedup_window", "dead_age", "archive_dir", "archive_age"),
    "Work": (
        "lanes",
        "partitions",
        "business_partitions",
        "batch",
        "max_attempts",
        "max_age",
        "status_order",
        "max_rss",
    ),
}
"""Every setting is in one section. The order is that of the page."""

SETTINGS = """# Settings

Settings are environment variables. `wa-ingest` also reads the file `.env` of its working folder, as Compose does: all
of its variables, so your handlers find what they need there, too. What the environment says of the same name goes
before it. (In the image the environment alone counts.) Each may also be given as `NAME_FILE`, the path of a file that
holds the value, as compose and Kubernetes hand out secrets. With a wrong value, nothing starts; one line names the
variable. A variable with the prefix `WA_` that is no setting gives a warning. `wa-ingest settings` shows the values in
force, with secrets masked.

Durations are written `500ms`, `30s`, `15m`, `25h` or `7d`; sizes `64MiB` or bytes; lists with commas. An empty value
counts as unset; an empty file is refused, because a secret that got lost must not turn its guard off. Where there has
to be a file, `# not set` in it means unset.

In the folder of an `up` that runs with a server of its own, other commands use that server and take the variables that
`up` was given, where their own environment does not have them (an empty one counts as given there); a line on standard
error names them. `up` leaves them in `data/up.json`, without the values of secrets; of `NAME_FILE` the path.

<!-- Written by `python -m tests.docs.reference --write` from ingest/settings/: change it there. -->
"""


def settings() -> str:
    """docs/settings.md as it must be."""
    defaults = Settings.model_construct().model_dump(mode="json")
    parts = [SETTINGS]
    for title, names in SECTIONS.items():
        parts += [f"\n## {title}\n\n", "| variable | default | meaning |\n", "|---|---|---|\n"]
        for name in names:
            default = defaults[name]
            shown = "unset" if default is None else f"`{default}`"
            meaning = (Settings.model_fields[name].description or "").replace("|", "\\|")
            parts.append(f"| `{variable(name)}` | {shown} | {meaning} |\n")
    return "".join(parts)


EVENTS = """# Events

Handlers are called with these objects. What the sender left out, or sent in a type that makes no sense, is `None`;
reading never raises. Treat `raw` as read-only: a retry is written from it.

Below each kind stands, for each of its types, a notification as it came, and what its attributes give. Long texts are
cut (`…`), and what is None, false or empty is left out.

<!-- Written by `python -m tests.docs.reference --write` from workers/events/. -->
"""


CLASSES = (
    Event,
    ChatEvent,
    kinds.Message,
    kinds.Status,
    kinds.Call,
    kinds.Handover,
    kinds.Preference,
    kinds.Error,
    kinds.Change,
    kinds.Profile,
    kinds.Media,
    kinds.Place,
    kinds.Card,
    kinds.Phone,
    kinds.OrderItem,
    kinds.Referral,
    kinds.Payment,
    kinds.Pricing,
    kinds.Conversation,
    kinds.Fault,
)
OF_KINDS = (kinds.Message, kinds.Status, kinds.Call, kinds.Handover, kinds.Preference, kinds.Error, kinds.Change)
TITLES: dict[type, tuple[str, str]] = {
    Event: ("All events", "What all of them have."),
    ChatEvent: ("Events of one contact", "What messages, calls, handovers and preferences have, too."),
}


def events() -> str:
    """docs/events.md as it must be."""
    parts = [EVENTS]
    for cls in CLASSES:
        title, about = TITLES.get(cls, (cls.__name__, _text(cls.__doc__)))
        rows = [f"| `{name}` | {meaning} |\n" for name, meaning in _members(cls)]
        parts += [f"\n## {title}\n\n{about}\n\n", "| | |\n|---|---|\n", *rows]
        if cls in OF_KINDS:
            parts.append(catalogue.shown(cls))
    parts += [PATHS, *(_paths() if paths.SHARED.is_dir() else _paths_as_they_are())]
    return "".join(parts)


PATHS = """
## What stands where

Each place in the notifications that are known, and the attribute that gives what stands there. `Change.value` gives the
value of a change whole. Everything else can be read in `raw`, as sent, and in `envelope`, which has what surrounds the
element.

"""
ROWS = "| place | attribute |\n|---|---|\n"


def _paths() -> list[str]:
    given, *_ = paths.attributes_by_path()
    return [ROWS, *(f"| `{place}` | `{name}` |\n" for place, name in sorted(given.items()))]


def _paths_as_they_are() -> list[str]:
    """The rows on the page, where there are no notifications to make them from."""
    return [ROWS, (DOCS / "events.md").read_text().partition(ROWS)[2]]


def _members(cls: type) -> Iterator[tuple[str, str]]:
    """Public properties and attributes that a class itself has, with the text that stands below them."""
    source, annotated = inspect.getsource(cls), inspect.get_annotations(cls)
    for name in dict.fromkeys([*cls.__dict__, *annotated]):
        found = cls.__dict__.get(name)
        if name.startswith("_"):
            continue
        if isinstance(found, property):
            if found.__doc__:  # without one, that of all events holds
                yield name, _text(found.__doc__)
        elif below := re.search(rf'^    {name}\b[^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL):
            yield name, _text(below[1])
        elif dataclasses.is_dataclass(cls) and name in annotated:
            yield name, f"`{annotated[name]}`".replace("|", "\\|")


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split()).replace("|", "\\|")


PAGES = {"settings.md": settings, "events.md": events}

if __name__ == "__main__":
    for name, page in PAGES.items():
        if sys.argv[1:] == ["--write"]:
            (DOCS / name).write_text(page())
        else:
            print(page())
