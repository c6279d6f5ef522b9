"""The compose deployment on a real Docker engine: it builds, starts, scales, loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from ingest.settings import Settings, variable

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared" / "corpus"
HANDLERS = Path(__file__).parent / "handlers"
COMPOSE_FILE = ROOT / "docker-compose.yml"

WAIT = 240.0
"""Seconds for anything to come true: a container to be healthy, a backlog to be gone."""

CONNECTIONS = 32
BACKLOG = 20_000
SOME = 6_000

pytestmark = pytest.mark.timeout(1200)

WaitFor = Callable[..., None]


def run(*command: str, env: dict[str, str] | None = None, stderr: bool = False) -> str:
    """Standard output (or standard error) of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stderr if stderr else done.stdout


def succeeds(*command: str) -> bool:
    return shutil.which(command[0]) is not None and not subprocess.run(command, capture_output=True).returncode


class Lanes(NamedTuple):
    """What `wa-ingest status` says of all lanes together."""

    waiting: int
    working: int
    retrying: int
    dead: int


class Call(NamedTuple):
    """One call of a handler: when, and for what."""

    time: str
    kind: str
    id: str


class Stack:
    """The services of docker-compose.yml under a project name of their own."""

    def __init__(self, compose: Sequence[str], env_file: Path) -> None:
        self.port, self.admin_port = free_ports(2)
        self._project = f"wa-ingest-test-{os.getpid()}"
        self._compose = [*compose, "--env-file", str(env_file), "-p", self._project]
        self._env = clean_environment() | {
            "WA_PUBLISH": f"127.0.0.1:{self.port}",
            "WA_ADMIN_PUBLISH": f"127.0.0.1:{self.admin_port}",
            "WA_HANDLERS_DIR": str(HANDLERS),
            "WA_HANDLERS": "writing:handlers",
        }

    def compose(self, *arguments: str) -> str:
        return run(*self._compose, *arguments, env=self._env)

    def up(self, workers: int) -> None:
        """Start what does not run, and wait until all are healthy."""
        self.compose("up", "-d", "--no-build", "--scale", f"worker={workers}")
        deadline = time.monotonic() + WAIT
        while states := {c["State"]["Health"]["Status"] for c in self.inspect()} - {"healthy"}:
            assert time.monotonic() < deadline, f"{states} after {WAIT:g} s: {self.compose('logs', '--tail=20')}"
            time.sleep(0.2)

    def containers(self, service: str = "") -> list[str]:
        """Ids of the containers of a service, running or not."""
        labels = [f"label=com.docker.compose.project={self._project}"]
        if service:
            labels.append(f"label=com.docker.compose.service={service}")
        return run("docker", "ps", "--all", "--quiet", *(f"--filter={label}" for label in labels)).split()

    def inspect(self, service: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *self.containers(service)))
        return found

    def status(self) -> dict[str, Any]:
        """What `wa-ingest status --json` prints in the receiver's container."""
        status: dict[str, Any] = json.loads(self.compose("exec", "-T", "receiver", "wa-ingest", "status", "--json"))
        return status

    def lanes(self) -> Lanes:
        lanes = self.status()["lanes"].values()
        return Lanes(*(sum(lane[name] for lane in lanes) for name in Lanes._fields))

    def drained(self) -> bool:
        return self.lanes()[:3] == (0, 0, 0)

    def calls(self) -> list[Call]:
        """Every call of a handler in the workers that exist, from their standard output."""
        texts = [run("docker", "logs", "--timestamps", container) for container in self.containers("worker")]
        lines = [line.split() for text in texts for line in text.splitlines() if " handled " in line]
        return [Call(*line[0:1], *line[2:4]) for line in lines]

    def calls_of(self, prefix: str) -> list[Call]:
        """Those for messages whose id begins like that."""
        return [call for call in self.calls() if call.id.startswith(prefix + "-")]

    def kill(self, container: str, pattern: str) -> None:
        """SIGKILL to the processes in a container whose command line matches."""
        find = f"grep -lsE '{pattern}' /proc/[0-9]*/cmdline | cut -d/ -f3"
        run("docker", "exec", container, "sh", "-c", f"kill -9 $({find})")

    def post(self, bodies: Sequence[bytes]) -> Counter[int]:
        """How often each HTTP status was answered; 0 is no answer."""
        return Counter(asyncio.run(post_all(f"http://127.0.0.1:{self.port}/webhook", bodies)))


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("WA_", "COMPOSE_"))}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


async def post_all(url: str, bodies: Sequence[bytes]) -> list[int]:
    """The HTTP status for each body, over a bounded number of connections that stay open."""
    answers = [0] * len(bodies)
    todo = iter(enumerate(bodies))

    async def sender(session: aiohttp.ClientSession) -> None:
        for number, body in todo:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.post(url, data=body) as answer:
                    answers[number] = answer.status

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(sender(session) for _ in range(CONNECTIONS)))
    return answers


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


def moment(text: str) -> datetime:
    """Docker gives nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", text))


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The command for compose on this machine."""
    if succeeds("docker", "compose", "version"):
        return ["docker", "compose", "-f", str(COMPOSE_FILE)]
    if succeeds("docker-compose", "version"):
        return ["docker-compose", "-f", str(COMPOSE_FILE)]
    pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")


@pytest.fixture(scope="module")
def stack(compose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The image of this source, built; valkey, a receiver and a worker of it, healthy. Gone afterwards."""
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers")
    for image in [*re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.M), "valkey/valkey:8-bookworm"]:
        if not succeeds("docker", "image", "inspect", image):
            pytest.skip(f"the base image {image} is not on this machine")
    env_file = tmp_path_factory.mktemp("compose") / "empty.env"
    env_file.touch()
    stack = Stack(compose, env_file)
    began = time.monotonic()
    run("docker", "build", "--network", "host", "-t", "wa-ingest", ".")
    built = time.monotonic()
    try:
        stack.up(workers=1)
        print(f"built in {built - began:.1f} s, healthy after {time.monotonic() - built:.1f} s")
        yield stack
    finally:
        stack.compose("down", "-v", "--remove-orphans", "-t", "10")


def test_every_setting_can_be_given() -> None:
    """Each setting is named in docker-compose.yml, or a user's value would be ignored without a word."""
    text = COMPOSE_FILE.read_text()
    own_address = {"listen"}  # WA_PUBLISH says where it is reachable
    missing = [variable(name) for name in Settings.model_fields if name not in own_address]
    missing = [name for name in missing if not re.search(rf"^  +{name}:", text, re.M)]
    assert not missing, f"name it in docker-compose.yml under x-environment: {missing}"


def test_valid_as_it_is(compose: list[str], tmp_path: Path) -> None:
    """Without any variable or file the configuration is valid, and the admin listener published on loopback only."""
    env_file = tmp_path / "empty.env"
    env_file.touch()
    config = run(*compose, "--env-file", str(env_file), "config", env=clean_environment())
    assert re.search(r"127\.0\.0\.1:9100:9100|host_ip: 127\.0\.0\.1\n +target: 9100", config)
    assert f"{ROOT}/examples" in config
    assert "printing:handlers" in config


def test_nobody_is_root(stack: Stack) -> None:
    """Every process of receiver and worker runs as user 10001 and cannot become more."""
    for service in ("receiver", "worker"):
        for container in stack.containers(service):
            owners = run("docker", "exec", container, "sh", "-c", "stat -c %u /proc/[0-9]* || true").split()
            assert set(owners) == {"10001"}
        (first, *_) = stack.inspect(service)
        assert first["Config"]["User"] not in ("", "0", "root")
        assert first["HostConfig"]["CapDrop"] == ["ALL"]


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
    assert {b["HostIp"] for b in bindings["9100/tcp"]} == {"127.0.0.1"}


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


def test_kills_lose_nothing(stack: Stack, wait_for: WaitFor) -> None:
    """A worker process and then a whole container killed in the middle of their work: each message is handled."""
    stack.up(workers=3)
    victim, doomed, _ = stack.containers("worker")
    bodies = texts("kill", SOME, "slow")
    assert stack.post(list(bodies.values())) == {200: SOME}

    wait_for(lambda: stack.calls_of("kill"), WAIT, "the begin of the work")
    stack.kill(victim, "workers[.]worker")
    done = len(stack.calls_of("kill"))
    wait_for(lambda: len(stack.calls_of("kill")) > done, WAIT, "more work")
    run("docker", "kill", doomed)
    left = stack.lanes()
    assert left.waiting + left.working > 0, "the kills were to come in the middle"

    wait_for(stack.drained, WAIT, "an empty backlog")
    calls = Counter(call.id for call in stack.calls_of("kill"))
    print(f"after {done} calls and at {left}; {calls.total() - SOME} calls came again")
    assert set(calls) == set(bodies)
    assert stack.lanes().dead == 0
    assert "starting it again" in run("docker", "logs", victim, stderr=True)


def test_a_kill_of_valkey_loses_nothing(stack: Stack, wait_for: WaitFor) -> None:
    """Valkey killed in the middle of the work is started again by the engine, and what it had accepted is handled."""
    stack.up(workers=3)
    bodies = texts("crash", SOME, "slow")
    assert stack.post(list(bodies.values())) == {200: SOME}

    wait_for(lambda: stack.calls_of("crash"), WAIT, "the begin of the work")
    (valkey,) = stack.inspect("valkey")
    stack.kill(valkey["Id"], "^[^ ]*(valkey|redis)-server")
    done = len(stack.calls_of("crash"))
    assert done < SOME, "the kill was to come in the middle"
    wait_for(lambda: stack.inspect("valkey")[0]["RestartCount"] > valkey["RestartCount"], WAIT, "a new start")
    stack.up(workers=3)

    wait_for(stack.drained, WAIT, "an empty backlog")
    calls = Counter(call.id for call in stack.calls_of("crash"))
    print(f"after {done} calls; {calls.total() - SOME} calls came again")
    assert set(calls) == set(bodies)
    assert stack.lanes().dead == 0


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
