"""The services of a compose file on a real engine, under a project name and on ports of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

ROOT = Path(__file__).parents[2]

WAIT = 240.0
"""Seconds for anything to come true: a container to be healthy, a backlog to be gone."""

NETWORK = f"10.213.{os.getpid() % 250}"
"""The first parts of the addresses of a test's own network."""

_CONNECTIONS = 32


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
    """`settings` are variables of the compose file; ports that it publishes are free ones on loopback."""

    def __init__(self, compose: Sequence[str], env_file: Path, file: str, **settings: str) -> None:
        text = (ROOT / file).read_text()
        published = re.findall(r"\$\{(WA_\w*PUBLISH\w*):-", text)
        self.ports = dict(zip(published, free_ports(len(published)), strict=True))
        self.port, self.admin_port = self.ports["WA_PUBLISH"], self.ports.get("WA_ADMIN_PUBLISH", 0)
        self.project = f"wa-ingest-test-{os.getpid()}-{self.port}"
        self._receiver = "receiver1" if "  receiver1:" in text else "receiver"
        self._compose = [*compose, "-f", str(ROOT / file), "--env-file", str(env_file), "-p", self.project]
        addresses = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        self._env = clean_environment() | {"WA_NETWORK": NETWORK} | addresses | settings

    def into_store(self, service: str) -> None:
        """Let a service reach Valkey, too, which its own networks do not."""
        (container,) = self.containers(service)
        run("docker", "network", "connect", f"{self.project}_store", container)

    def valkey_cli(self, *command: str, service: str = "valkey") -> str:
        """The answer to a command, given with all rights."""
        return self.compose("exec", "-T", service, "sh", "/valkey/cli.sh", *command).strip()

    def compose(self, *arguments: str, **settings: str) -> str:
        return run(*self._compose, *arguments, env=self._env | settings)

    def up(self, workers: int) -> None:
        """Start all services without a profile, or those that are missing, and wait until everything is healthy."""
        self.compose("up", "-d", "--no-build", "--scale", f"worker={workers}")
        self.healthy()

    def add(self, *services: str) -> None:
        """Start these, too."""
        self.compose("up", "-d", "--no-build", *services)
        self.healthy()

    def renew(self, service: str) -> None:
        """Replace a service's container as for a new version, and wait until it is healthy."""
        self.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", service)
        self.healthy(service)

    def healthy(self, service: str = "") -> None:
        def states() -> set[str]:
            found = [container["State"] for container in self.inspect(service)]
            return {state["Health"]["Status"] if "Health" in state else state["Status"] for state in found}

        deadline = time.monotonic() + WAIT
        while bad := states() - {"healthy", "running"}:
            assert time.monotonic() < deadline, f"{bad} after {WAIT:g} s: {self.compose('logs', '--tail=20')}"
            time.sleep(0.2)

    def down(self) -> None:
        self.compose("--profile", "tls", "--profile", "observe", "down", "-v", "--remove-orphans", "-t", "10")

    def containers(self, service: str = "") -> list[str]:
        """Ids of the containers of a service, running or not."""
        labels = [f"label=com.docker.compose.project={self.project}"]
        if service:
            labels.append(f"label=com.docker.compose.service={service}")
        return run("docker", "ps", "--all", "--quiet", *(f"--filter={label}" for label in labels)).split()

    def inspect(self, service: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *self.containers(service)))
        return found

    def status(self) -> dict[str, Any]:
        """What `wa-ingest status --json` prints in a receiver's container."""
        status: dict[str, Any] = json.loads(self.compose("exec", "-T", self._receiver, "wa-ingest", "status", "--json"))
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

    def beside(self, service: str, *command: str) -> subprocess.Popen[str]:
        """Run a command of the image, in the network namespace of a service's container, with the workers' Redis."""
        (container,) = self.containers(service)
        login = ("--env", "WA_REDIS_URL_FILE=/login/redis-url", "--volume", f"{self.project}_worker-login:/login:ro")
        network = ("--network", f"container:{container}", *login)
        entry, *arguments = command
        start = ("docker", "run", "--rm", *network, "--entrypoint", entry, "wa-ingest", *arguments)
        return subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report(load: subprocess.Popen[str]) -> dict[str, Any]:
    """End `wa-ingest simulate --verify --json`, and what it found: nothing that was acknowledged is missing."""
    assert load.poll() is None, "it was to last until now"
    load.send_signal(signal.SIGINT)
    out, errors = load.communicate(timeout=WAIT)
    assert out, errors
    found: dict[str, Any] = json.loads(out)
    wanted = ("sent", "acknowledged", "answers", "latency_seconds", "verify")
    print({name: found[name] for name in wanted}, errors.strip())
    assert found["acknowledged"] > 500
    assert found["verify"]["missing"] == 0
    return found


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

    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(sender(session) for _ in range(_CONNECTIONS)))
    return answers


def moment(text: str) -> datetime:
    """Docker gives nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", text))
