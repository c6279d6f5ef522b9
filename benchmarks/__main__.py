"""`python -m benchmarks`: take measures, print them, keep them, compare them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import (
    accept,
    contenders,
    drain,
    growth,
    lanes,
    latency,
    machine,
    page,
    processes,
    ratios,
    recovery,
    redis_cpu,
    results,
    tables,
    wrk,
)
from benchmarks.bench import Bench
from benchmarks.machine import BenchError
from benchmarks.programs import valkey
from benchmarks.waiting import measure as waiting

_BUSY = 0.1  # of all cores


class _Measure(NamedTuple):
    """A measure and the seconds that it takes about, for the progress bar."""

    run: Callable[[Bench], dict[str, Any]]
    quick: int
    full: int


_MEASURES = {
    "accept": _Measure(accept.run, 45, 160),
    "drain": _Measure(drain.run, 35, 330),
    "memory": _Measure(drain.memory, 12, 120),
    "processes": _Measure(processes.run, 10, 10),
    "redis": _Measure(redis_cpu.run, 25, 70),
    "latency": _Measure(latency.run, 30, 75),
    "lanes": _Measure(lanes.run, 14, 50),
    "growth": _Measure(growth.run, 60, 220),
    "recovery": _Measure(recovery.run, 18, 60),
    "waiting": _Measure(waiting.run, 120, 800),
}


def _chosen(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    names = value.split(",") if value else list(_MEASURES)
    unknown = [name for name in names if name not in _MEASURES]
    if unknown:
        raise click.BadParameter(f"no measure {unknown[0]!r}; there are {', '.join(_MEASURES)}")
    return [name for name in _MEASURES if name in names]


@click.command()
@click.option("--quick", is_flag=True, help="About 5 minutes: fewer peers, smaller counts. Without it about 30.")
@click.option("--only", callback=_chosen, metavar="NAME,…", help=f"Only these of: {', '.join(_MEASURES)}.")
@click.option("--compare-baseline", is_flag=True, help="Exit 1 when a ratio fell by more than 25 %.")
@click.option("--write-baseline", is_flag=True, help="Make this quick run the baseline.")
def main(quick: bool, only: list[str], compare_baseline: bool, write_baseline: bool) -> None:
    """Measure this project and what its users would pick instead.

    Needs wrk, and a machine that does nothing else meanwhile.
    """
    if (compare_baseline or write_baseline) and not quick:
        raise click.UsageError("the baseline is one of quick runs: add --quick")
    before = ratios.baseline() if compare_baseline else {}
    if {"accept", "growth"} & set(only):
        wrk.check()
    signal.signal(signal.SIGTERM, _interrupt)  # what was started is ended, as at Ctrl-C
    console = Console()
    skipped = contenders.skipped()
    for why, titles in skipped.items():
        console.print(f"Without {', '.join(titles)}: {why}", markup=False)
    about = {"machine": machine.facts(), "versions": machine.versions() | {"valkey": _valkey_version()}}
    console.print(f"{about['machine']['cpu']}; {about['machine']['placing']}", markup=False)
    busy = about["machine"]["busy_before"] or 0
    if busy > _BUSY:
        console.print(f"Others use {busy:.0%} of this machine: every figure will be too low.")
    measures, failed = _measure(console, quick, only)
    result = results.made(measures, quick, about, skipped)
    tables.show(console, result)
    whole = measures.keys() == _MEASURES.keys()
    file = results.save(result, whole)
    console.print(f"\nWritten to {file.relative_to(machine.ROOT)}", markup=False)
    if failed:
        raise BenchError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    if write_baseline:
        results.write_baseline(result)
    if not quick:
        page.write(result)
    if whole and not quick:
        _draw()
    if compare_baseline:
        changes = ratios.compare(result["ratios"], before)
        console.print(tables.changes(changes))
        if any(change.fell for change in changes):
            raise BenchError(f"a ratio fell by more than {ratios.FALL:.0%} of benchmarks/baseline.json, see above")


def _measure(console: Console, quick: bool, names: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of each measure, and why some failed: a measure that fails does not stop the others."""
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    columns = (SpinnerColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        shares = {name: _MEASURES[name].quick if quick else _MEASURES[name].full for name in names}
        task = progress.add_task("", total=sum(shares.values()))
        bench = Bench(quick, lambda text: progress.update(task, description=text))
        for name in names:
            if not console.is_terminal:
                console.print(f"{datetime.now():%H:%M:%S} {name}", markup=False)
            try:
                found[name] = _MEASURES[name].run(bench)
            except BenchError as error:
                failed[name] = error.message
            except Exception as error:  # a fault of the measure itself
                failed[name] = repr(error)
            progress.advance(task, shares[name])
    return found, failed


def _valkey_version() -> str:
    with valkey("everysec") as store:
        server = store.redis.info("server")
        return str(server.get("valkey_version", server["redis_version"]))


def _draw() -> None:
    """The plots need matplotlib, which lives in the peers' environment."""
    if not machine.PEERS_PYTHON.exists():
        click.echo("no plots: benchmarks/.venv is not there; `make bench` makes it")
        return
    call = [str(machine.PEERS_PYTHON), "-m", "benchmarks.plots"]
    if subprocess.run(call, cwd=machine.ROOT, check=False).returncode:  # noqa: S603 - our own module
        raise BenchError("the plots could not be drawn, see above")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
