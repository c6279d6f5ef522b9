"""The user's own Prometheus metrics, served for all worker processes of a command."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingest import child

BOT = """
import os
from prometheus_client import Counter, Gauge
from workers import Handlers
handlers = Handlers()
seen = Counter("bot_seen", "Messages", ["type"])
up = Gauge("bot_up", "Processes", multiprocess_mode="livesum")
up.set(1)

@handlers.message()
def on_message(message):
    seen.labels(message.type).inc()
    print("pid", os.getpid(), flush=True)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(
    run_module: Start, tmp_path: Path, redis_url: str, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Start a command with two workers; it writes into the file `log`."""
    (tmp_path / "bot.py").write_text(BOT)
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
    monkeypatch.setenv("WA_PROCESSES", "2")
    monkeypatch.setenv("WA_LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("WA_ADMIN_LISTEN", f"127.0.0.1:{free_port()}")

    def run(command: str, listen: str) -> subprocess.Popen[str]:
        monkeypatch.setenv("WA_WORKER_METRICS_LISTEN", listen)
        with (tmp_path / "log").open("w") as log:
            return run_module("workers.cli", command, cwd=tmp_path, stdout=log)

    return run


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], str]:
    """What the command wrote so far."""
    return lambda: (tmp_path / "log").read_text()


def scrape(address: str) -> dict[str, float]:
    """Every sample at that address; none as long as nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {sample.name: sample.value for one in text_string_to_metric_families(text) for sample in one.samples}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_all_workers_together(
    host: str,
    start: Start,
    log: Callable[[], str],
    commit: Callable[..., None],
    message: Callable[..., bytes],
    free_port: Callable[[], int],
    wait_for: Callable[..., None],
) -> None:
    """Counters of all workers add up, also of one that was killed; its live gauges go; the end of all ends it, too."""
    address = f"{host}:{free_port()}"
    process = start("work", address)
    wait_for(lambda: scrape(address).get("bot_up") == 2)
    commit(*[message(f"m{n}", sender=str(n)) for n in range(20)], batch=1)
    wait_for(lambda: scrape(address).get("bot_seen_total") == 20)
    os.kill(int(re.findall(r"pid (\d+)\n", log())[0]), signal.SIGKILL)
    wait_for(lambda: log().count("worker started") == 3)
    wait_for(lambda: scrape(address).get("bot_up") == 2)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        assert answer.headers["Server"].strip() == "wa-ingest"  # no version of Python
    assert scrape(address)["bot_seen_total"] >= 20  # more, if events were handled again
    process.terminate()
    assert process.wait(40) == 0
    assert scrape(address) == {}


def test_apart_from_the_receivers(
    start: Start, log: Callable[[], str], free_port: Callable[[], int], wait_for: Callable[..., None]
) -> None:
    """With `up`, the receiver's metrics are at the admin listener, the user's at the other: none is scraped twice."""
    address = f"127.0.0.1:{free_port()}"
    process = start("up", address)
    wait_for(lambda: "Ctrl-C stops" in log(), 60)
    assert f"http://{address}/metrics" in log()
    assert set(scrape(address)) == {"bot_up"}
    admin = scrape(os.environ["WA_ADMIN_LISTEN"])
    assert "bot_up" not in admin
    assert "wa_connections" in admin
    process.terminate()
    assert process.wait(40) == 0


def test_a_port_that_another_took_meanwhile(run_module: Start, tmp_path: Path) -> None:
    """It is one line that names the setting, without a traceback, and an end for good."""
    said = tmp_path / "said"
    with socket.create_server(("127.0.0.1", 0)) as other, said.open("w") as out:
        host, port = other.getsockname()
        env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        process = run_module("workers.cli.worker_metrics", host, str(port), env=env, stdout=out)
        assert process.wait(60) == child.GIVE_UP
    setting = "WA_WORKER_METRICS_LISTEN"
    assert said.read_text() == (
        f"wa-ingest: {setting}: cannot listen on {host}:{port}: Address already in use; "
        f"take another port, as {setting}={host}:{port + 1} does\n"
    )
