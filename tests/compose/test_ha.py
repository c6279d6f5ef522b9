"""docker-compose.ha.yml on a real engine: the primary dies, receivers are replaced, and no sender notices."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.compose.conftest import Make
from tests.compose.stack import WAIT, Stack, report, run

pytestmark = pytest.mark.timeout(1200)

WaitFor = Callable[..., None]


@pytest.fixture(scope="module")
def stack(make: Make) -> Iterator[Stack]:
    """Everything but the balancer more than once."""
    handlers = "workers.simulator.verifying:handlers"
    with make("docker-compose.ha.yml", "balancer", workers=2, WA_HANDLERS=handlers) as stack:
        stack.into_store("balancer")  # for the simulator, which runs beside it and looks at what was handled
        yield stack


def simulate(stack: Stack, *options: str) -> subprocess.Popen[str]:
    """Begin to post as WhatsApp does, through the balancer."""
    fixed = ("simulate", "--to", "http://127.0.0.1:8080/webhook", "--verify", "--json", "--seconds", "300")
    more = ("--timeout", "35", "--connections", "100", *options)
    return stack.beside("balancer", "wa-ingest", *fixed, *more)


def primary(stack: Stack) -> str:
    """The service that sentinel1 holds for the primary."""
    ask = ("valkey-cli", "-p", "26379", "sentinel", "get-master-addr-by-name", "wa")
    address = stack.compose("exec", "-T", "sentinel1", *ask).split()[0]
    return f"valkey{address.rpartition('.1')[2]}"


def replicas(stack: Stack, service: str) -> int:
    """How many replicas follow it."""
    return stack.valkey_cli("info", "replication", service=service).count("state=online")


def test_a_new_version_refuses_nobody(stack: Stack) -> None:
    """Both receivers are replaced under load, one after the other: each post is answered 200 at the first try."""
    load = simulate(stack, "--rate", "200")
    for service in ("receiver1", "receiver2"):
        stack.renew(service)
    found = report(load)
    assert set(found["answers"]) == {"200"}
    assert found["verify"]["repeated"] == 0


def test_failover_loses_nothing(stack: Stack, wait_for: WaitFor) -> None:
    """The primary is killed under load: another one takes over, with a replica, and all that was posted is handled."""
    wait_for(lambda: replicas(stack, "valkey1") == 2, WAIT, "both replicas")
    load = simulate(stack, "--rate", "100")
    wait_for(lambda: stack.status()["counts"], WAIT, "the begin of the work")
    (container,) = stack.containers("valkey1")
    run("docker", "kill", "--signal", "KILL", container)
    wait_for(lambda: primary(stack) != "valkey1", WAIT, "the failover")
    new = primary(stack)
    before = stack.status()["counts"].get("handled.message", 0)
    wait_for(lambda: stack.status()["counts"]["handled.message"] > before, WAIT, "work at the new primary")
    report(load)
    assert replicas(stack, new) == 1


def test_who_is_primary_outlives_the_containers(stack: Stack, wait_for: WaitFor) -> None:
    """After `down` and `up` the primary is who it was, and the one that was killed follows it: no older copy wins."""
    before = primary(stack)
    counts = stack.status()["counts"]
    assert before != "valkey1", "the tests before are to have moved it"
    stack.compose("down")
    stack.up(workers=2)
    assert primary(stack) == before
    wait_for(lambda: replicas(stack, before) == 2, WAIT, "both replicas")
    assert stack.status()["counts"] == counts
    assert set(stack.post([b"{}"] * 10)) == {200}
