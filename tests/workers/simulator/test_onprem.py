"""The On-Premises client from its set-up to the last handled callback: API, TLS, a secret path, an outage."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import Result
from redis import Redis

from tests.ingest.conftest import start_receiver  # noqa: F401
from tests.workers.setup.apis import Coreapp
from workers.simulator.bodies import Content
from workers.simulator.counters import Tally
from workers.simulator.sender import Plan, Unreachable, send
from workers.simulator.verifying import Check, Findings, look

SEGMENT = "5f4dcc3b5aa765d61d83"


def run(plan: Plan, content: Content, check: Check | None = None) -> Tally:
    """Send it all; what came of it."""
    return asyncio.run(send(plan, content.notifications(), observer=check))


def test_from_setting_up_to_the_handler(
    logged_in: Callable[..., Result],
    coreapp: Coreapp,
    start_receiver: Callable[..., Any],  # noqa: F811
    run_module: Callable[..., Any],
    redis_url: str,
    redis: Redis,
    tmp_path: Path,
    wait_for: Callable[..., None],
) -> None:
    """What `wa-ingest coreapp` sets up is what the client does: it trusts the receiver's private CA once that is
    uploaded, uses as many connections as it was told, and loses nothing while the receiver is away."""
    private = trustme.CA()
    private.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    private.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    settings = {"WA_TLS_CERT": tmp_path / "both.pem", "WA_TLS_KEY": tmp_path / "both.pem", "WA_PATH_SECRET": SEGMENT}
    receiver = start_receiver(redis_url, **settings)
    with (tmp_path / "worker.log").open("w") as log:
        env = os.environ | {"WA_HANDLERS": "workers.simulator.verifying:handlers"}
        run_module("workers.engine.worker", cwd=tmp_path, stdout=log, env=env)

    url = f"https://127.0.0.1:{receiver.port}/webhook/{SEGMENT}"
    more = ("--max-concurrent-requests", "24", "--callback-backoff-delay-ms", "30")
    assert logged_in("settings", "apply", "--url", url, *more).exit_code == 0
    assert coreapp.plan().connections == 24
    with pytest.raises(Unreachable, match="certificate"):
        run(coreapp.plan(count=5), Content("onprem"))
    assert logged_in("ca", "upload", str(tmp_path / "ca.pem")).exit_code == 0

    content = Content("onprem", contacts=20)
    check = Check(content)
    tallies: list[Tally] = []
    plan = coreapp.plan(rate=300.0, count=900, duplicates=0.1)
    sending = threading.Thread(target=lambda: tallies.append(run(plan, content, check)))
    sending.start()
    wait_for(lambda: check.findings().expected > 10)  # acknowledged, whether a worker has begun or not
    receiver.close()
    start_receiver(redis_url, port=receiver.port, **settings)
    sending.join(60)
    [tally] = tallies
    assert tally.acknowledged == tally.sent == 900
    assert tally.retried > 0
    assert verified(redis, content, check) == Findings(check.findings().expected, check.findings().expected, 0, 0, 0)


def verified(redis: Redis, content: Content, check: Check) -> Findings:
    """What the workers wrote down, compared with what was acknowledged."""
    *_, found = look([redis], content.run, check, 30.0)
    assert found.expected > 400
    return found
