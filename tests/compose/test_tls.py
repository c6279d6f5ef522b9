"""docker-compose.yml with Caddy and Prometheus, on a real engine: https, kills and updates under load, scraping."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

import pytest

from tests.compose.conftest import Make, image_of, needs
from tests.compose.stack import WAIT, Stack, report, run, succeeds
from tests.conftest import wait_for as until

pytestmark = pytest.mark.timeout(1200)

WaitFor = Callable[..., None]

POST = """
import ssl, sys
from http.client import HTTPSConnection

context = ssl._create_unverified_context()
for size in map(int, sys.argv[1:]):
    client = HTTPSConnection("localhost", context=context)
    client.request("POST", "/webhook", b" " * size)
    print(client.getresponse().status)
"""
"""Posts bodies of these sizes to Caddy from its own network namespace."""


@pytest.fixture(scope="module")
def stack(make: Make) -> Iterator[Stack]:
    """Caddy in front of a receiver that lets in nobody but senders whose address is loopback, as Caddy wrote it."""
    settings = {
        "WA_HANDLERS": "workers.simulator.verifying:handlers",
        "WA_ALLOW_NETWORKS": "127.0.0.1",
        "WA_MAX_BODY": "1MiB",
    }
    with make("docker-compose.yml", "caddy", **settings) as stack:
        address = f"https://localhost:{stack.ports['WA_HTTPS_PUBLISH']}"
        stack.into_store("caddy")  # for the simulator, which runs beside it and looks at what was handled
        until(lambda: succeeds("curl", "--silent", "--insecure", address), 60, "Caddy's certificate")
        yield stack


def simulate(stack: Stack, *options: str) -> subprocess.Popen[str]:
    """Begin to post as WhatsApp does, through Caddy. The certificate is from a CA of its own."""
    fixed = ("simulate", "--to", "https://localhost/webhook", "--insecure", "--verify", "--json", "--seconds", "300")
    more = ("--timeout", "35", "--connections", "100", *options)
    return stack.beside("caddy", "wa-ingest", *fixed, *more)


def test_https_keeps_the_senders_address(stack: Stack) -> None:
    """A sender counts as who it is, whatever it writes into X-Forwarded-For, and http leads to https."""
    here = f"https://localhost:{stack.ports['WA_HTTPS_PUBLISH']}/webhook"
    curl = ("curl", "--silent", "--insecure", "--write-out", "%{http_code}", "--output", "/dev/null", "--data", "{}")
    assert run(*curl, here) == "403"
    assert run(*curl, "--header", "X-Forwarded-For: 127.0.0.1", here) == "403"
    assert run(*curl, f"http://localhost:{stack.ports['WA_HTTP_PUBLISH']}/webhook") == "308"
    out, errors = stack.beside("caddy", "python", "-c", POST, "2").communicate(timeout=WAIT)
    assert out.split() == ["200"], errors


def test_bodies_are_bounded_by_the_receiver_alone(stack: Stack) -> None:
    """A body of WA_MAX_BODY comes through, one byte more is answered 413."""
    out, errors = stack.beside("caddy", "python", "-c", POST, str(1 << 20), str((1 << 20) + 1)).communicate(
        timeout=WAIT
    )
    assert out.split() == ["200", "413"], errors


def test_scaling_and_kills_lose_nothing(stack: Stack, wait_for: WaitFor) -> None:
    """Under load one worker becomes four and one again, and each service is killed once: everything is handled."""
    load = simulate(stack, "--rate", "100")
    wait_for(lambda: stack.status()["counts"], WAIT, "the begin of the work")
    stack.up(workers=4)
    for services in (("receiver", "worker"), ("valkey",)):
        for service in services:
            run("docker", "kill", "--signal", "KILL", stack.containers(service)[0])
        stack.up(workers=4)
    stack.up(workers=1)
    assert len(stack.containers("worker")) == 1
    assert report(load)["verify"]["out_of_order"] == 0


def test_a_new_receiver_refuses_nobody(stack: Stack) -> None:
    """The receiver is replaced under load, and senders only wait."""
    (caddy,) = stack.containers("caddy")
    version = run("docker", "exec", caddy, "caddy", "version").split()[0].removeprefix("v")
    if tuple(int(part) for part in version.split("-")[0].split(".")) < (2, 11, 2):
        pytest.skip(f"Caddy {version} gives up a POST that finds no receiver: 2.11.2 is the first that tries it again")
    load = simulate(stack, "--rate", "200")
    stack.renew("receiver")
    found = report(load)
    assert set(found["answers"]) == {"200"}
    assert found["verify"]["repeated"] == 0


def test_prometheus(stack: Stack, wait_for: WaitFor) -> None:
    """Prometheus scrapes the receiver and has loaded the rules."""
    needs(image_of("prometheus"))
    stack.add("prometheus")

    def ask(path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{stack.ports['WA_PROMETHEUS_PUBLISH']}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def scraped() -> bool:
        with suppress(OSError):  # not ready yet
            targets = ask("targets")["activeTargets"]
            return any(one["health"] == "up" and "receiver:9100" in one["scrapeUrl"] for one in targets)
        return False

    wait_for(scraped, WAIT, "a scrape of the receiver")
    assert ask("rules")["groups"]
