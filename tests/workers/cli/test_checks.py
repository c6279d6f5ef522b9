"""`wa-ingest check`: what it finds of senders' guards and of certificates."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis import Redis

from ingest.settings import load
from ingest.store import keys
from workers.cli import checks
from workers.cli.checks import Check

NOW = datetime.datetime.now(datetime.UTC)


def found(**settings: Any) -> dict[str, Check]:
    return {check.name: check for check in checks.run(load(**settings))}


def test_no_guard(redis_url: str) -> None:
    """A receiver that takes from anybody is warned of, with all that would change it."""
    check = found()["senders"]
    assert check.result == "warning"
    for name in ("WA_APP_SECRET", "WA_PATH_SECRET", "WA_BASIC_AUTH", "WA_ALLOW_NETWORKS", "WA_TLS_CLIENT_CA"):
        assert name in check.advice


def test_more_workers_than_partitions(redis: Redis) -> None:
    """Worker processes that never get messages are warned of, with the setting that would change it."""
    assert "workers" not in found(partitions=2)
    for n in range(3):
        redis.zadd(keys.ALIVE, {f"w{n}": int(time.time() * 1000)})
        redis.hset(keys.rq_worker_key(f"w{n}"), "queues", "messages.0,messages.1")
    check = found(partitions=2)["workers"]
    assert (check.result, check.advice) == ("warning", "raise WA_PARTITIONS")
    assert check.finding == "3 worker processes but 2 partitions: 1 of them never get messages"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"app_secret": "s"}, "a signature"),
        ({"basic_auth": "u:p"}, "Basic auth"),
        ({"path_secret": "x" * 16}, "a secret path"),
        ({"allow_networks": "10.0.0.0/8", "app_secret": "s"}, "a signature, networks"),
    ],
)
def test_guards(redis_url: str, settings: dict[str, str], words: str) -> None:
    """Each guard that is set is named, and no secret is."""
    check = found(**settings)["senders"]
    assert (check.result, check.finding) == ("ok", f"who may post is decided by {words}")


@pytest.mark.parametrize(
    ("begins", "ends", "result"),
    [(-1, 90, "ok"), (-1, 13, "warning"), (-90, -1, "failed"), (1, 90, "failed")],
)
def test_certificate(redis_url: str, tmp_path: Path, begins: int, ends: int, result: str) -> None:
    """A certificate that ends within two weeks is warned of; one that is not valid now fails."""
    issued = trustme.CA().issue_cert(
        "localhost",
        not_before=NOW + datetime.timedelta(days=begins),
        not_after=NOW + datetime.timedelta(days=ends),
    )
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    check = found(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")["WA_TLS_CERT"]
    assert check.result == result
    assert bool(check.advice) == (result != "ok")


def test_client_ca_without_a_name(redis_url: str, tmp_path: Path) -> None:
    """A client CA alone lets in all its customers, which is warned of; its certificate is looked at, too."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    settings = {"tls_cert": tmp_path / "both", "tls_key": tmp_path / "both", "tls_client_ca": tmp_path / "ca"}
    assert found(**settings)["client certificates"].result == "warning"
    named = found(**settings, tls_client_name="client.example")
    assert "client certificates" not in named
    assert named["WA_TLS_CLIENT_CA"].result == "ok"


def test_certificate_that_cannot_be_read(redis_url: str) -> None:
    """Files that are no certificate fail with the line that would stop the receiver."""
    check = found(tls_cert="/none", tls_key="/none")["certificate"]
    assert (check.result, check.finding) == ("failed", "WA_TLS_CERT: cannot read /none: No such file or directory")
