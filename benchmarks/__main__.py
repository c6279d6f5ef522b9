"""`python -m benchmarks`: take measures, print them, keep them, compare them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import Any

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
    ratios,
    recovery,
    results,
    tables,
    wrk,
)
from benchmarks.bench import Bench
from benchmarks.machine import BenchError
from benchmarks.programs import valkey

# Each with its share of the time in seconds, quick and full, for the progress bar.
_MEASURES: dict[str, tuple[Callable[[Bench], dict[str, Any]], int, int]] = {
    "accept": (accept.run, 45, 160),
    "drain": (drain.run, 35, 330),
    "memory": (drain.memory, 12, 120),
    "latency": (latency.run, 30, 75),
    "lanes": (lanes.run, 14, 50),
    "growth": (growth.run, 60, 220),
    "recovery": (recovery.run, 18, 60),
}


def _chosen(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    names = value.split(",") if value else list(_MEASURES)
    unknown = [name for name in names if name not in _MEASURES]
    if unknown:
        raise click.BadParameter(f"no measure {unknown[0]!r}; there are {', '.join(_MEASURES)}")
    return [name for name in _MEASURES if name in names]


@click.command()
@click.option("--quick", is_flag=True, help="About 3 minutes: fewer peers, smaller counts. Without it about 15.")
@click.option("--only", callback=_chosen, metavar="NAME,…", help=f"Only these of: {', '.join(_MEASURES)}.")
@click.option("--compare-baseline", is_flag=True, help="Exit 1 when a ratio fell by more than 25 %.")
@click.option("--write-baseline", is_flag=True, help="Make this quick run the one to compare with.")
def main(quick: bool, only: list[str], compare_baseline: bool, write_baseline: bool) -> None:
    """Measure this project beside what its users would pick instead. Needs wrk, and a machine that does nothing else."""
    if (compare_baseline or write_baseline) and not quick:
        raise click.UsageError("the baseline is one of quick runs: add --quick")
    before = ratios.baseline() if compare_baseline else {}
    if {"accept", "growth"} & set(only):
        wrk.check()
    signal.signal(signal.SIGTERM, _interrupt)  # what was started is ended, as at Ctrl-C
    console = Console()
    skipped = [f"{peer.title}: {why}" for peer in contenders.PEERS if (why := contenders.missing(peer))]
    for line in skipped:
        console.print(f"without {line}", markup=False)
    about = {"machine": machine.facts(), "versions": machine.versions() | {"valkey": _valkey_version()}}
    console.print(f"{about['machine']['cpu']}; {about['machine']['placing']}", markup=False)
    measures = _measure(console, quick, only)
    result = results.made(measures, quick, about, skipped)
    tables.show(console, result)
    console.print(
        f"\nWritten to {results.save(result, whole=len(only) == len(_MEASURES))}", markup=False, soft_wrap=True
    )
    if write_baseline:
        results.write_baseline(result)
    if not quick and len(only) == len(_MEASURES):
        _draw()
    if compare_baseline:
        changes = ratios.compare(result["ratios"], before)
        console.print(tables.changes(changes))
        if any(change.fell for change in changes):
            raise BenchError(f"a ratio fell by more than {ratios.FALL:.0%} of benchmarks/baseline.json, see above")


def _measure(console: Console, quick: bool, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    columns = (SpinnerColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        shares = {name: _MEASURES[name][1 if quick else 2] for name in names}
        task = progress.add_task("", total=sum(shares.values()))
        bench = Bench(quick, lambda text: progress.update(task, description=text))
        for name in names:
            found[name] = _MEASURES[name][0](bench)
            progress.advance(task, shares[name])
    return found


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
