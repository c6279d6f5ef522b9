"""Who is measured: ours and the peers, as programs that serve, load and work.

Peers are called as `PROGRAM serve|load|work` with BENCH_PORT, BENCH_REDIS, BENCH_COUNT and BENCH_BODIES.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import bodies, machine
from benchmarks.machine import BenchError
from benchmarks.names import OURS, PEERS, QUICK, Contender
from benchmarks.programs import Program, Store, folder, free_port, listens, run, running, wait_until

LOAD_SECONDS = 300.0


def missing(name: str) -> str | None:
    """Why a peer cannot be measured here, or None."""
    if name == "bullmq":
        if not shutil.which("node"):
            return "node is not installed"
        if not (machine.BULLMQ / "node_modules").is_dir():
            return "its packages are not installed; `make bench` does that where npm is"
        return None
    if not machine.PEERS_PYTHON.exists():
        return "benchmarks/.venv is not there; `make bench` makes it"
    return None


def skipped() -> dict[str, list[str]]:
    """Which peers are left out, by the reason."""
    found: dict[str, list[str]] = {}
    for peer in PEERS:
        why = missing(peer.name)
        if why is not None:
            found.setdefault(why, []).append(peer.title)
    return found


def chosen(mode: str, measure: str, quick: bool) -> list[Contender]:
    """The peers that take part in a measure and are installed."""
    wanted = QUICK.get(measure) if quick else None
    return [p for p in PEERS if mode in p.modes and (wanted is None or p.name in wanted) and missing(p.name) is None]


def command(name: str, mode: str) -> list[str]:
    """How a peer is called."""
    if name == "bullmq":
        return ["node", str(machine.BULLMQ / "main.js"), mode]
    return [str(machine.PEERS_PYTHON), "-m", f"benchmarks.peers.{name}", mode]


@contextmanager
def serving(name: str, store: Store, **settings: object) -> Iterator[int]:
    """A receiver (ours, or a peer's) in one process on the front core; the block gets its port."""
    port = free_port()
    if name == OURS:
        own = {
            "WA_LISTEN": f"127.0.0.1:{port}",
            "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "WA_REDIS_URL": store.url,
            "WA_DURABILITY": "redis",
        }
        call: list[str] = [sys.executable, "-m", "ingest.server"]
    else:
        own = {"BENCH_PORT": str(port), "BENCH_REDIS": str(store.port)}
        call = command(name, "serve")
    with running(f"{name} serve", call, machine.FRONT, **own | settings) as program:
        wait_until(lambda: listens(port), 30.0, f"the receiver of {name}", program)
        yield port


@contextmanager
def worker(
    store: Store, handled: Path, cores: list[int], *arguments: str, keep: int = 0, kinds: str = "message"
) -> Iterator[Program]:
    """A worker process of ours with handlers that do nothing; what they saw is in `handled` after the block.

    `keep`: how many events of these `kinds` they keep with their times.
    """
    own: dict[str, object] = {
        "WA_REDIS_URL": store.url,
        "WA_HANDLERS": "benchmarks.handlers:handlers",
        "BENCH_HANDLED": handled,
    }
    if keep:
        own |= {"BENCH_KEEP": keep, "BENCH_KEEP_KINDS": kinds}
    with running("ours work", [sys.executable, "-m", "workers.engine.worker", *arguments], cores, **own) as program:
        yield program


def load(name: str, store: Store, count: int, kind: str = "message", updates: int = 1) -> int:
    """Fill a backlog; return the bytes of the bodies in it. `updates`: events in a body, for ours alone."""
    own: dict[str, object] = {"BENCH_REDIS": store.port, "BENCH_COUNT": count}
    with folder() as place:
        file = place / "bodies"
        if name == OURS:
            own |= {"BENCH_KIND": kind, "BENCH_UPDATES": updates}
            said = run("ours load", [sys.executable, "-m", "benchmarks.load"], machine.FRONT, LOAD_SECONDS, **own)
            return int(said.split()[-1])
        bodies.write(file, count, kind)
        own["BENCH_BODIES"] = file
        run(f"{name} load", command(name, "load"), machine.FRONT, LOAD_SECONDS, **own)
        return file.stat().st_size - count  # without the line ends


def work(name: str, store: Store, count: int, **settings: object) -> float:
    """Let a peer's worker handle its backlog; return notifications per second from its first call to its last."""
    with folder() as place:
        file = place / "bodies"
        file.touch()
        own = {"BENCH_REDIS": store.port, "BENCH_COUNT": count, "BENCH_BODIES": file} | settings
        with running(f"{name} work", command(name, "work"), machine.FRONT, **own) as program:
            wait_until(lambda: _report(program), 120.0, f"the end of {name}'s backlog", program, every=0.05)
            report = _report(program) or {}
    if report["handled"] < count:
        raise BenchError(f"{name} handled {report['handled']} of {count}; it lost the others, or counts wrongly")
    return float(count / (report["last"] - report["first"]))


def _report(program: Program) -> dict[str, Any] | None:
    """The line that a peer writes at its end."""
    over = program.process.poll() is not None  # asked first: what it wrote before it ended is read below
    for line in program.said().splitlines(keepends=True):
        if line.startswith('{"handled"') and line.endswith("\n"):
            report: dict[str, Any] = json.loads(line)
            return report
    if over:
        program.check()
        raise BenchError(f"{program.name} ended without its report")
    return None
