"""What the soak runs on, and what it does to it: two Valkeys behind a name, `wa-ingest serve`, `wa-ingest work`."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError

from ingest.state import backlog
from ingest.state.spooled import spool_figures
from ingest.store import keys
from ingest.store.queues import LANES
from tests.faults.servers import Name, Servers
from tests.ingest.conftest import port_below_ephemeral, settled_environment

ROOT = Path(__file__).parents[2]
BOT = "tests.faults.soak_bot"


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Return as soon as `condition()` is true. A Redis that does not answer is no answer yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (RedisError, OSError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class System:
    """Everything; it ends with the stack."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._url_file = folder / "url"
        self._spool = folder / "spool"
        self.seen = folder / "seen"
        self.seen.mkdir()
        self.primary, self.replica = port_below_ephemeral(), port_below_ephemeral()
        self.servers = Servers(folder)
        self._stack.callback(self.servers.close)
        self._password = secrets.token_hex(8)
        own = ("--requirepass", self._password, "--masterauth", self._password, "--appendfsync", "everysec")
        self.servers.server(self.primary, *own)
        self.servers.server(self.replica, *own, "--replicaof", f"127.0.0.1 {self.primary}")
        until(self._in_step, "the replica")
        self._name = Name(self.primary)
        self._stack.callback(self._name.close)
        self._tell_password()
        self.port = port_below_ephemeral()
        self._env = settled_environment(
            WA_REDIS_URL_FILE=self._url_file,
            WA_LISTEN=f"127.0.0.1:{self.port}",
            WA_ADMIN_LISTEN=f"127.0.0.1:{port_below_ephemeral()}",
            WA_SPOOL_DIR=self._spool,
            WA_HANDLERS=f"{BOT}:handlers",
            WA_CONCURRENCY=20,
            WA_THREADS=4,
            WA_HANDLER_TIMEOUT="2s",
            WA_STOP_SECONDS="1s",
            SEEN=self.seen,
            PYTHONPATH=ROOT,
        )
        self._commands: dict[str, subprocess.Popen[bytes]] = {}
        self._serve = self._start("serve")
        self._work = self._start("work", "--processes", "2")
        until(lambda: '"receiver started"' in self.log("serve").read_text(), "the receiver's start")

    def _start(self, command: str, *arguments: str) -> int:
        """Start a command of ours, which ends with the rest. Its process id."""
        with self.log(command).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", command, *arguments],
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=log,
            )
        self._commands[command] = process
        self._stack.callback(_end, process)
        return process.pid

    def log(self, command: str) -> Path:
        return self._folder / f"{command}.log"

    def ended(self) -> list[str]:
        """The commands that have ended by themselves: none should."""
        return [command for command, process in self._commands.items() if process.poll() is not None]

    def client(self, port: int | None = None) -> Any:
        """A new connection to a Valkey, the primary if no port is given; to be closed."""
        return closing(redis.Redis(port=port or self.primary, password=self._password, socket_timeout=10))

    def processes(self) -> list[tuple[str, int]]:
        """Kind and process id of all whose memory counts."""
        workers = [("worker", pid) for pid in children(self._work)]
        receivers = [("receiver", pid) for pid in children(self._serve)]
        return [*workers, *receivers, ("Valkey", self.servers.pid(self.primary))]

    def backlog(self) -> tuple[int, int]:
        """How many notifications wait for their first try, and how many events for their next one."""
        with self.client() as client:
            lanes = backlog.read(client).lanes.values()
        return sum(lane.waiting for lane in lanes), sum(lane.retrying for lane in lanes)

    def nothing_owed(self) -> bool:
        # In this order: what leaves the spool is in the ledger first.
        if spool_figures(self._spool).notifications:
            return False
        with self.client() as client:
            return not client.zcard(keys.LEDGER)

    def dead_letters(self) -> list[bytes]:
        """Their bodies."""
        with self.client() as client:
            return [fields[b"body"] for lane in LANES for _, fields in client.xrange(keys.dead_key(lane))]

    # What is done to it. Each says in a word what it did, which is empty when there was nobody to do it to.

    def kill_worker(self) -> str:
        return self._kill("worker", self._work)

    def kill_receiver(self) -> str:
        return self._kill("receiver", self._serve)

    def _kill(self, kind: str, parent: int) -> str:
        found = children(parent)
        if not found:
            return ""
        os.kill(random.choice(found), signal.SIGKILL)
        return f"{kind} killed"

    def fail_over(self) -> str:
        """Primary and replica swap roles, with all that was written; old connections stay open to the demoted one."""
        until(self._in_step, "the replica")
        with self.client() as old, self.client(self.replica) as new:
            old.execute_command("FAILOVER", "TO", "127.0.0.1", self.replica)
            until(lambda: new.info("replication")["role"] == "master", "the failover")
        self.primary, self.replica = self.replica, self.primary
        self._name.target = self.primary
        until(self._in_step, "the old primary as a replica")
        return "failed over"

    def rotate_password(self) -> str:
        """The password of both is changed, the file is written anew, and all connections are ended."""
        before = [self.client(port) for port in (self.primary, self.replica)]
        self._password = secrets.token_hex(8)
        for server in before:
            with server as client:
                client.config_set("masterauth", self._password)
                client.config_set("requirepass", self._password)
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._tell_password()
        return "password changed"

    def _tell_password(self) -> None:
        self._url_file.write_text(f"redis://:{self._password}@127.0.0.1:{self._name.port}/0")

    def _in_step(self) -> bool:
        """True when the replica has all that the primary has, but for what is being written."""
        with self.client() as client:
            found = client.info("replication")
        return bool(found["connected_slaves"]) and found["slave0"]["state"] == "online"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        left = children(process.pid)
        process.kill()
        process.wait()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
