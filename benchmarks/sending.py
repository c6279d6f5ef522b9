"""The open loop as a program of its own, on the senders' core; its answers are compared with what the handlers saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine, openloop
from benchmarks.bench import spread
from benchmarks.programs import run


def send(port: int, rate: float, count: int, *, every: int = 1, warm: float = 0.0, seed: int = 1) -> dict[str, Any]:
    """Send `count` notifications at `rate` a second; ids, due and answered times of each."""
    options = {"port": port, "rate": rate, "count": count, "every": every, "warm": warm, "seed": seed}
    call = [sys.executable, "-m", "benchmarks.openloop", *(f"--{name}={value}" for name, value in options.items())]
    longest = count / rate + 2 * warm + 2 * openloop.GRACE_SECONDS + 20
    sent: dict[str, Any] = json.loads(run("openloop", call, machine.BACK, longest).splitlines()[-1])
    return sent


def answers(sent: dict[str, Any]) -> dict[str, Any]:
    """From the moment each was due to its answer."""
    taken = [done - due for due, done in zip(sent["due"], sent["answered"], strict=True) if done is not None]
    return spread(taken) | {"sent": len(sent["due"]), "not_answered": len(sent["due"]) - len(taken)}


def handled(sent: dict[str, Any], seen: Path, every: int = 1) -> dict[str, Any]:
    """From the answer to the handler's call, for every n-th; 0 where the call came before the answer was read."""
    times = dict(one for file in seen.glob("*.json") for one in json.loads(file.read_text())["kept"])
    answered = list(zip(sent["ids"], sent["answered"], strict=True))[::every]
    owed = [(identity, moment) for identity, moment in answered if moment is not None]
    taken = [max(0.0, times[identity] - moment) for identity, moment in owed if identity in times]
    return spread(taken) | {"missing": len(owed) - len(taken)}
