"""What idle processes take: those of `up`, `serve` and `work`, each parent with its children."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.programs import Store, folder, free_port, running, valkey, wait_until

_COMMANDS = {"serve": ("receiver",), "work": ("worker",), "up": ("receiver", "worker")}
_MODULES = {"receiver": "ingest.server", "worker": "workers.engine.worker"}


def run(bench: Bench) -> dict[str, dict[str, float]]:
    """MiB resident in each process of each command (VmRSS, which counts shared pages in full)."""
    with valkey("everysec") as store:
        return {command: _of(bench, store, command) for command in _COMMANDS}


def _of(bench: Bench, store: Store, command: str) -> dict[str, float]:
    bench.step(f"processes: {command}")
    own = {"WA_LISTEN": f"127.0.0.1:{free_port()}", "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    with ExitStack() as stack:
        own |= {"WA_REDIS_URL": store.url, "WA_SPOOL_DIR": str(stack.enter_context(folder()))}
        call = [sys.executable, "-m", "workers.cli", command]
        program = stack.enter_context(running(f"ours {command}", call, machine.FRONT, **own))
        parent = program.process.pid

        def idle() -> bool:
            """All have started, and nobody asks any more whether they are ready."""
            said = program.said()
            names = _COMMANDS[command]
            return all(f"{name} started" in said for name in names) and len(children(parent)) == len(names)

        wait_until(idle, 60.0, f"the start of {command}", program)
        time.sleep(1.0)  # what a start leaves to be done is done
        found = {"parent": resident(parent)}
        for name in _COMMANDS[command]:
            (found[name],) = (resident(pid) for pid, call in children(parent).items() if _MODULES[name] in call)
    return {name: round(size, 1) for name, size in found.items()}


def children(pid: int) -> dict[int, str]:
    """The process ids of a process's children, each with its command line."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(one): Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ") for one in found}


def resident(pid: int) -> float:
    """MiB of memory that a process holds now."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
