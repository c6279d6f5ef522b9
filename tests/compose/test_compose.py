"""docker-compose.yml on a real Docker engine: it builds, starts, scales, loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.compose.conftest import Make, image_of
from tests.compose.stack import NETWORK, ROOT, WAIT, Stack, moment, post_all, run, succeeds
from tests.conftest import wait_for as until

CORPUS = ROOT.parent / "shared" / "corpus"
HANDLERS = Path(__file__).parent / "handlers"

BACKLOG = 10_000
SOME = 4_000

pytestmark = pytest.mark.timeout(1200)

WaitFor = Callable[..., None]


def texts(prefix: str, count: int, text: str = "Hello") -> dict[str, bytes]:
    """Text messages of 500 contacts by their id."""
    bodies = {}
    for n in range(count):
        name = f"{prefix}-{os.getpid()}-{n}"
        contact = f"1555{n % 500:07}"
        message = {"from": contact, "id": name, "timestamp": "1700000000", "type": "text", "text": {"body": text}}
        bodies[name] = compact({"contacts": [{"wa_id": contact}], "messages": [message]})
    return bodies


def compact(tree: object) -> bytes:
    """As on the wire: no spaces, ASCII only."""
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=True).encode()


@pytest.fixture(scope="module")
def stack(make: Make) -> Iterator[Stack]:
    """Valkey, a receiver and a worker that writes down its calls."""
    with make("docker-compose.yml", WA_HANDLERS_DIR=str(HANDLERS), WA_HANDLERS="writing:handlers") as stack:
        yield stack


def test_nobody_can_do_much(stack: Stack) -> None:
    """Receiver and worker run as user 10001; every container has bounds and a root that nobody can write to."""
    for service in ("receiver", "worker"):
        for container in stack.containers(service):
            owners = run("docker", "exec", container, "sh", "-c", "stat -c %u /proc/[0-9]* || true").split()
            assert set(owners) == {"10001"}
        (first, *_) = stack.inspect(service)
        assert first["Config"]["User"] not in ("", "0", "root")
        assert not first["HostConfig"]["CapAdd"]
    for container in stack.inspect():
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["LogConfig"]["Config"]["max-file"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0


def test_the_archive_can_be_written(stack: Stack) -> None:
    """The volume for WA_ARCHIVE_DIR belongs to the user of the workers."""
    (worker,) = stack.containers("worker")
    run("docker", "exec", worker, "sh", "-c", "echo kept >/archive/test && rm /archive/test")


def test_a_secret_is_a_file(stack: Stack, tmp_path: Path) -> None:
    """A secret whose file of this machine is named reaches the settings; those that are not named are unset."""
    secret = tmp_path / "app-secret"
    secret.write_text("a secret\n")
    secret.chmod(0o644)  # for user 10001
    show = ("run", "--rm", "--no-deps", "-T", "receiver", "settings", "--json")
    before = json.loads(stack.compose(*show))
    after = json.loads(stack.compose(*show, WA_APP_SECRET_FILE=str(secret)))
    changed = {name: one["value"] for name, one in after.items() if one != before[name]}
    assert changed == {"WA_APP_SECRET": "**********"}


def test_both_listeners_are_reached_on_loopback(stack: Stack, wait_for: WaitFor) -> None:
    """The public listener answers on its port, the admin listener on its own, and neither on the other's."""

    async def statuses() -> dict[str, int]:
        found = {}
        async with aiohttp.ClientSession() as session:
            for port in (stack.port, stack.admin_port):
                for path in ("/readyz", "/webhook"):
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        found[f"{'public' if port == stack.port else 'admin'} {path}"] = answer.status
        return found

    assert asyncio.run(statuses()) == {
        "public /readyz": 404,
        "public /webhook": 403,
        "admin /readyz": 200,
        "admin /webhook": 404,
    }
    (receiver,) = stack.inspect("receiver")
    bindings = receiver["HostConfig"]["PortBindings"]
    assert {b["HostIp"] for port in ("8080/tcp", "9100/tcp") for b in bindings[port]} == {"127.0.0.1"}


ASK = """
import socket, sys
for host in sys.argv[1:]:
    try:
        with socket.create_connection((host, 6379), 5) as valkey:
            valkey.sendall(b"GET x\\r\\n")
            print(valkey.recv(100).split()[0].decode())
    except OSError:
        print("away")
"""
"""What Valkey answers to somebody without a password."""


def test_valkey_is_for_receiver_and_workers_alone(stack: Stack) -> None:
    """It is reached from their network alone, says nothing without a password, and each user may do its own work."""
    (valkey,) = stack.inspect("valkey")
    address = valkey["NetworkSettings"]["Networks"][f"{stack.project}_store"]["IPAddress"]
    seen = {}
    for network in ("edge", "default", "observe", "store"):
        where = ("--network", f"{stack.project}_{network}", "--entrypoint", "python")
        out = run("docker", "run", "--rm", *where, "wa-ingest", "-c", ASK, "valkey", address)
        seen[network] = out.split()
    assert seen == dict.fromkeys(("edge", "default", "observe"), ["away"] * 2) | {"store": ["-NOAUTH"] * 2}

    logins = {one: stack.compose("exec", "-T", one, "cat", "/login/redis-url") for one in ("receiver", "worker")}
    users = {one: re.fullmatch(r"redis://(\w+):(\w{48})@valkey:6379/0\n", login) for one, login in logins.items()}
    assert {one: found and found[1] for one, found in users.items()} == {"receiver": "receiver", "worker": "worker"}
    assert len({found and found[2] for found in users.values()}) == 2
    drop = ("wa-ingest", "dead", "drop", "--yes", "--lane", "other")
    assert "0 of 0" in stack.compose("exec", "-T", "worker", *drop)
    assert set(re.findall(r"^(?:receiver|worker)$", stack.valkey_cli("acl", "log"), re.M)) == set()


def test_a_volume_of_before_keeps_its_data(compose: list[str], empty_env: Path, image: None) -> None:
    """A Valkey volume of an older version, written without users by another uid, is read; passwords stay the same."""
    apart = NETWORK.replace("10.213.", "10.212.")
    stack = Stack(compose, empty_env, "docker-compose.yml", WA_HANDLERS_DIR=str(HANDLERS), WA_NETWORK=apart)
    older = f"{stack.project}-older"
    try:
        stack.compose("up", "--no-start", "--no-build", "valkey")
        volume = ("--volume", f"{stack.project}_valkey:/data", "--name", older, image_of("valkey"))
        server = ("valkey-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--save", "")
        run("docker", "run", "--detach", *volume, *server)
        until(lambda: succeeds("docker", "exec", older, "valkey-cli", "ping"), 60, "the older server")
        run("docker", "exec", older, "valkey-cli", "rpush", "kept", "one")
        run("docker", "rm", "--force", older)

        stack.compose("up", "--detach", "--no-build", "valkey")
        stack.healthy("valkey")
        assert stack.valkey_cli("lrange", "kept", "0", "-1") == "one"
        stack.valkey_cli("eval", "redis.call('SET', 'a', 1) return redis.call('SET', 'b', 2)", "0")
        passwords = stack.compose("exec", "-T", "valkey", "cat", "/passwords/worker", "/passwords/receiver")
        stack.compose("restart", "valkey")
        stack.healthy("valkey")
        assert stack.compose("exec", "-T", "valkey", "cat", "/passwords/worker", "/passwords/receiver") == passwords
        assert stack.valkey_cli("lrange", "kept", "0", "-1") == "one"
        assert stack.valkey_cli("get", "b") == "2"  # a script's work, which is read back with the default user's rights
    finally:
        succeeds("docker", "rm", "--force", older)
        stack.down()


def test_check_finds_nothing_that_fails(stack: Stack) -> None:
    """`wa-ingest check` in the receiver's container passes: append-only file, fsync, eviction, handlers."""
    findings = json.loads(stack.compose("exec", "-T", "receiver", "wa-ingest", "check", "--json"))
    results = {finding["name"]: finding["result"] for finding in findings}
    assert "failed" not in results.values()
    assert {results[name] for name in ("redis", "append-only file", "eviction", "handlers")} == {"ok"}


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not on this machine")
def test_the_corpus(stack: Stack, wait_for: WaitFor) -> None:
    """All bodies of the corpus are answered 200, and the handlers get what EXPECTED.json says."""
    expected = json.loads((CORPUS / "EXPECTED.json").read_text())
    bodies = [compact(json.loads((CORPUS / name).read_text())) for name in expected]
    assert len(bodies) == 197
    totals: Counter[str] = Counter()
    for events in expected.values():
        totals.update(events)

    assert stack.post(bodies) == {200: len(bodies)}

    wait_for(stack.drained, WAIT, "an empty backlog")
    calls = Counter(call.kind for call in stack.calls())
    # The samples use some ids again: as far as duplicates are recognised they do not reach a handler.
    for outcome, number in stack.status()["counts"].items():
        name, _, kind = outcome.partition(".")
        if name.startswith("duplicate"):
            calls[kind] += number
    dead = totals.pop("unknown", 0) + totals.pop("unreadable", 0)
    assert calls == totals
    assert stack.lanes().dead == dead


def test_a_backlog_drains(stack: Stack, wait_for: WaitFor) -> None:
    """What arrives while the workers are stopped waits, all of it, and each message is handled once when they start."""
    stack.up(workers=3)
    stack.compose("stop", "worker")
    bodies = texts("backlog", BACKLOG)

    began = time.monotonic()
    assert stack.post(list(bodies.values())) == {200: BACKLOG}
    print(f"{BACKLOG} posted, {BACKLOG / (time.monotonic() - began):.0f}/s")
    assert stack.lanes()[:3] == (BACKLOG, 0, 0)

    began = time.monotonic()
    stack.compose("start", "worker")
    wait_for(stack.drained, WAIT, "an empty backlog")
    print(f"drained {time.monotonic() - began:.1f} s after the start of the workers")
    calls = stack.calls_of("backlog")
    assert Counter(call.id for call in calls) == dict.fromkeys(bodies, 1)
    times = sorted(moment(call.time) for call in calls)
    seconds = (times[-1] - times[0]).total_seconds()
    print(f"first to last call {seconds:.2f} s, {BACKLOG / seconds:.0f}/s with 3 workers")


def test_what_is_killed_comes_back(stack: Stack, wait_for: WaitFor) -> None:
    """A worker process and Valkey, killed in the middle of the work, are started again; each message is handled."""
    stack.up(workers=3)
    (victim, *_) = stack.containers("worker")
    bodies = texts("kill", SOME, "slow")
    assert stack.post(list(bodies.values())) == {200: SOME}

    wait_for(lambda: stack.calls_of("kill"), WAIT, "the begin of the work")
    stack.kill(victim, "workers[.]engine[.]worker")
    done = len(stack.calls_of("kill"))
    wait_for(lambda: len(stack.calls_of("kill")) > done, WAIT, "more work")
    (valkey,) = stack.inspect("valkey")
    stack.kill(valkey["Id"], "^[^ ]*(valkey|redis)-server")
    done = len(stack.calls_of("kill"))
    assert done < SOME, "the kills were to come in the middle"
    wait_for(lambda: stack.inspect("valkey")[0]["RestartCount"] > valkey["RestartCount"], WAIT, "a new start")
    stack.healthy()

    wait_for(stack.drained, WAIT, "an empty backlog")
    calls = Counter(call.id for call in stack.calls_of("kill"))
    print(f"after {done} calls; {calls.total() - SOME} calls came again")
    assert set(calls) == set(bodies)
    assert stack.lanes().dead == 0
    assert "starting it again" in run("docker", "logs", victim, stderr=True)


def test_valkey_may_be_away(stack: Stack, wait_for: WaitFor) -> None:
    """What arrives while Valkey is stopped is spooled, outlives the receiver's container, and is handled later."""
    stack.up(workers=1)
    bodies = texts("away", 500)
    stack.compose("stop", "valkey")
    assert stack.post(list(bodies.values())) == {200: len(bodies)}
    stack.compose("rm", "--stop", "--force", "receiver")

    stack.up(workers=1)
    wait_for(lambda: len(stack.calls_of("away")) >= len(bodies), WAIT, "every message handled")
    wait_for(stack.drained, WAIT, "an empty backlog")
    assert Counter(call.id for call in stack.calls_of("away")) == dict.fromkeys(bodies, 1)


def test_stop_and_start_lose_nothing(stack: Stack, wait_for: WaitFor) -> None:
    """`stop` under load ends the workers before Valkey; what was answered 200 is handled once, partly after `up`."""
    stack.up(workers=3)
    bodies = texts("stop", SOME, "slow")
    names = list(bodies)
    answers: list[int] = []
    url = f"http://127.0.0.1:{stack.port}/webhook"
    sender = threading.Thread(target=lambda: answers.extend(asyncio.run(post_all(url, list(bodies.values())))))
    sender.start()
    wait_for(lambda: stack.calls_of("stop"), WAIT, "the begin of the work")

    began = time.monotonic()
    stack.compose("stop")
    print(f"stopped in {time.monotonic() - began:.1f} s")
    sender.join(WAIT)
    assert not sender.is_alive()

    states = {service: [c["State"] for c in stack.inspect(service)] for service in ("valkey", "receiver", "worker")}
    print({service: [state["ExitCode"] for state in found] for service, found in states.items()})
    assert {state["ExitCode"] for found in states.values() for state in found} == {0}
    (end_of_valkey,) = (moment(state["FinishedAt"]) for state in states["valkey"])
    assert all(moment(s["FinishedAt"]) <= end_of_valkey for s in states["worker"] + states["receiver"])
    before = len(stack.calls_of("stop"))
    accepted = {name for name, status in zip(names, answers, strict=True) if status == 200}
    print(f"{len(accepted)} of {SOME} accepted, {before} handled before the stop")
    assert before < len(accepted), "the stop was to come in the middle"

    stack.up(workers=3)
    wait_for(stack.drained, WAIT, "an empty backlog")
    calls = Counter(call.id for call in stack.calls_of("stop"))
    assert accepted <= set(calls)
    assert set(calls.values()) == {1}
