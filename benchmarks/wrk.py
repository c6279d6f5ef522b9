"""Closed-loop load: wrk, an external program, in one thread on the core that Valkey has too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import bodies, machine
from benchmarks.machine import BenchError
from benchmarks.programs import folder, run

CONNECTIONS = 64
_BODIES = 1000  # different contacts and texts; each request has an id of its own


class Sent(NamedTuple):
    """What one run of wrk did."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


def check() -> None:
    """Raises BenchError when wrk is not installed."""
    if shutil.which("wrk") is None:
        raise BenchError("wrk is not installed; `apt install wrk` or `brew install wrk` gives it")


class Wrk:
    """Runs wrk; no two runs of one of these send the same id."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._first = 0

    def post(self, port: int, seconds: int, connections: int = CONNECTIONS) -> Sent:
        """Post messages on so many connections for so long. Raises BenchError when one was not answered 200."""
        first, self._first = self._first, self._first + 10_000_000
        call = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=20s", "-s", str(machine.HERE / "wrk.lua")]
        environment = {"WRK_BODIES": self._file, "WRK_FIRST": first}
        said = run("wrk", [*call, f"http://127.0.0.1:{port}"], machine.BACK, seconds + 30, **environment)
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        if found["refused"] or found["broken"] or not found["requests"]:
            raise BenchError(f"the receiver did not answer all with 200: {said.splitlines()[-1]}")
        return Sent(found["requests"], found["seconds"], found["p50_ms"], found["p99_ms"])


@contextmanager
def ready() -> Iterator[Wrk]:
    """A Wrk with its bodies on the disk."""
    check()
    with folder() as place:
        bodies.write(place / "bodies", _BODIES, seed=1)
        yield Wrk(place / "bodies")
