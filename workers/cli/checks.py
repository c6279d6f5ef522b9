"""The checks of `wa-ingest check`: is everything fit for production?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ByteSize

from ingest import signs
from ingest.settings import (
    DEFAULT_HANDLERS,
    GUARDS,
    SET_A_GUARD,
    Settings,
    SettingsError,
    tls,
    variable,
)
from ingest.store import disk, local
from workers import doubts, loading
from workers.cli import beside, env_file, redis_checks
from workers.cli.destinations import OLD_FILE
from workers.cli.redis_checks import Check as Check

_ENDS_SOON = timedelta(days=14)

TOPICS = {
    "senders": "anybody-may-post",
    "client certificates": "anybody-may-post",
    "certificate": "a-certificate-ends-or-is-wrong",
    "WA_TLS": "a-certificate-ends-or-is-wrong",
    "handshake": "the-callback-could-not-be-verified",
    "settings": "a-setting-has-no-effect",
    "spool": "notifications-wait-on-the-disk",
    "redis": "redis-is-away",
    "scripts": "redis-is-full-or-takes-no-writes",
    "append-only file": "redis-may-lose-what-it-holds",
    "eviction": "redis-may-lose-what-it-holds",
    "replicas": "redis-may-lose-what-it-holds",
    "dead letters": "there-are-dead-letters",
    "workers": "no-worker-is-alive",
    "agreement": "a-setting-has-no-effect",
    "handlers": "handlers-cannot-be-loaded",
    "modules": "handlers-cannot-be-loaded",
    "archive": "the-archive-cannot-be-written",
}
"""By the beginning of a check's name."""


def run(settings: Settings) -> list[Check]:
    """All checks, in the order in which a notification passes what they look at."""
    found = [
        *_edge(settings),
        _spool(settings),
        *redis_checks.run(settings),
        *_handlers(settings),
        *_hidden(settings),
        *_archive(settings),
    ]
    return [_in_full(one) for one in found]


def _in_full(one: Check) -> Check:
    """What is in order needs neither advice nor a topic, anything else has both."""
    if one.result == "ok":
        return one._replace(advice="", topic="")
    return one if one.topic else one._replace(topic=_topic(one.name))


def _topic(name: str) -> str:
    """The topic of a check that names none itself. With several Redis the address follows the name."""
    return next(topic for begin, topic in TOPICS.items() if name.startswith(begin))


def _edge(settings: Settings) -> Iterator[Check]:
    unknown = beside.secrets()
    if guards := settings.guards + [name for field, name in GUARDS.items() if variable(field) in unknown]:
        # What `.env` and the `up` beside both say is one guard.
        yield Check("senders", "ok", f"who may post is decided by {', '.join(dict.fromkeys(guards))}")
    else:
        yield Check(
            "senders",
            "warning",
            "anybody who reaches the port may post",
            SET_A_GUARD,
        )
    if settings.tls_client_ca and not settings.tls_client_name:
        yield Check(
            "client certificates",
            "warning",
            "any certificate of that CA may post, also those of its other customers",
            "set WA_TLS_CLIENT_NAME (Meta: client.webhooks.fbclientcerts.com)",
        )
    yield from _tls(settings)
    if not settings.verify_token and variable("verify_token") not in unknown:
        yield Check(
            "handshake", "warning", "the webhook cannot be registered with the Cloud API", "set WA_VERIFY_TOKEN"
        )
    for name in env_file.misspelt():
        yield Check("settings", "warning", f"{name} is no setting of this version", "see `wa-ingest settings`")


def _tls(settings: Settings) -> Iterator[Check]:
    if settings.tls_cert is None:
        yield Check("certificate", "ok", "none here: senders demand https, so TLS must end in front of the receiver")
        return
    try:
        tls.context(settings)
        found = tls.certificates(settings)
    except SettingsError as error:
        yield Check("certificate", "failed", str(error), "see WA_TLS_CERT, WA_TLS_KEY and WA_TLS_CLIENT_CA")
        return
    now = datetime.now(UTC)
    for name, certificates in found.items():
        begin = max(one.not_valid_before_utc for one in certificates)
        end = min(one.not_valid_after_utc for one in certificates)
        if begin > now:
            yield Check(name, "failed", f"valid only from {begin:%Y-%m-%d}", "give one that is valid, or set the clock")
        elif end < now:
            yield Check(
                name, "failed", f"ended on {end:%Y-%m-%d}", "renew it; the receiver takes up new files by itself"
            )
        else:
            result = "warning" if end - now < _ENDS_SOON else "ok"
            advice = "renew it; the receiver takes up new files by itself" if result == "warning" else ""
            yield Check(name, result, f"valid until {end:%Y-%m-%d}", advice)


def _spool(settings: Settings) -> Check:
    folder = own = settings.spool_dir or _spool_of_up(settings)
    if folder is None:
        return Check("spool", "warning", "none: while Redis is away, senders get 503", "set WA_SPOOL_DIR")
    while not folder.exists():  # the receiver makes it
        folder = folder.absolute().parent
    problem = disk.problem(folder)
    if problem:
        return Check("spool", "failed", f"{folder} cannot be written: {problem}", "see WA_SPOOL_DIR")
    free = ByteSize(shutil.disk_usage(folder).free).human_readable()
    return Check("spool", "ok", f"{own} can be written, {free} free")


def _spool_of_up(settings: Settings) -> Path | None:
    """The spool of an `up` with its own server that runs in this folder: it has one also when none is set."""
    return local.DATA / "spool" if settings.redis_url is None and local.running() else None


def _handlers(settings: Settings) -> Iterator[Check]:
    try:
        registry = loading.load_all(settings.handlers, settings.destinations)
    except Exception as error:
        is_file = str(error).startswith(variable("destinations"))
        advice = f"mend {settings.destinations}; {OLD_FILE}" if is_file else loading.advice(error)
        yield Check("handlers", "failed", loading.explain(settings.handlers, error), advice)
        return
    if len(registry):
        posts_only = settings.destinations and settings.handlers == DEFAULT_HANDLERS
        named = (None if posts_only else settings.handlers, settings.destinations)
        yield Check("handlers", "ok", f"{' and '.join(map(str, filter(None, named)))}: {len(registry)} registered")
    for line in doubts.of(registry, settings.handlers):
        finding, _, advice = line.partition("; ")
        yield Check("handlers", "warning", finding, advice, "a-handler-is-never-called")


def _hidden(settings: Settings) -> Iterator[Check]:
    for line in loading.hidden(settings.handlers):
        finding, _, advice = line.partition("; ")
        yield Check("modules", "warning", finding, advice)


def _archive(settings: Settings) -> Iterator[Check]:
    folder = settings.archive_dir
    if folder is None:
        return
    while not folder.exists():  # a worker makes it
        folder = folder.absolute().parent
    if problem := disk.problem(folder):
        finding = f"{folder} cannot be written: {problem}"
        if signs.without_workers():
            yield Check("archive", "ok", f"only workers write it, and none runs here ({finding})")
        else:
            yield Check("archive", "warning", finding, "workers here would settle nothing: see WA_ARCHIVE_DIR")
    else:
        free = ByteSize(shutil.disk_usage(folder).free).human_readable()
        yield Check("archive", "ok", f"{settings.archive_dir} can be written, {free} free")
