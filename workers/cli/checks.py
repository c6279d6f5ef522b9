"""The checks of `wa-ingest check`: is everything fit for production?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydantic import ByteSize

from ingest.settings import SET_A_GUARD, Settings, SettingsError, tls, unknown_variables
from ingest.store import disk
from workers import loading
from workers.cli import redis_checks
from workers.cli.redis_checks import Check as Check
from workers.raised import HandlersError

_ENDS_SOON = timedelta(days=14)


def run(settings: Settings) -> list[Check]:
    """All checks, in the order in which a notification passes what they look at."""
    return [
        *_edge(settings),
        _spool(settings),
        *redis_checks.run(settings),
        _handlers(settings),
        *_hidden(settings),
        *_archive(settings),
    ]


def _edge(settings: Settings) -> Iterator[Check]:
    if guards := settings.guards:
        yield Check("senders", "ok", f"who may post is decided by {', '.join(guards)}")
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
    if not settings.verify_token:
        yield Check(
            "handshake", "warning", "the webhook cannot be registered with the Cloud API", "set WA_VERIFY_TOKEN"
        )
    for name in unknown_variables():
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
    folder = settings.spool_dir
    if folder is None:
        return Check("spool", "warning", "none: while Redis is away, senders get 503", "set WA_SPOOL_DIR")
    while not folder.exists():  # the receiver makes it
        folder = folder.absolute().parent
    problem = disk.problem(folder)
    if problem:
        return Check("spool", "failed", f"{folder} cannot be written: {problem}", "see WA_SPOOL_DIR")
    free = ByteSize(shutil.disk_usage(folder).free).human_readable()
    return Check("spool", "ok", f"{settings.spool_dir} can be written, {free} free")


def _handlers(settings: Settings) -> Check:
    try:
        registry = loading.load_all(settings.handlers, settings.destinations)
    except HandlersError as error:
        return Check("handlers", "failed", str(error), "see WA_HANDLERS")
    except Exception as error:
        return Check("handlers", "failed", loading.explain(settings.handlers, error), "see WA_HANDLERS")
    if not len(registry):
        return Check("handlers", "warning", f"{settings.handlers} is empty", "register a function, see README")
    return Check("handlers", "ok", f"{settings.handlers}: {len(registry)} registered")


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
        yield Check("archive", "warning", finding, "workers here would settle nothing: see WA_ARCHIVE_DIR")
    else:
        free = ByteSize(shutil.disk_usage(folder).free).human_readable()
        yield Check("archive", "ok", f"{settings.archive_dir} can be written, {free} free")
