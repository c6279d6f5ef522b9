"""The gate of `make bench-quick`, and the ratios and targets that a run gives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import ratios
from benchmarks.bench import Bench
from benchmarks.machine import BenchError

NAME = "accept: ours / bare_aiohttp"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made_up: dict[str, Any]) -> Any:
    """Run `--quick --compare-baseline` on made-up figures whose accept ratio is that part of its baseline."""

    def run(part: float) -> Any:
        now = ratios.of(made_up)
        file = tmp_path / "baseline.json"
        file.write_text(json.dumps({"ratios": now | {NAME: now[NAME] / part}}))
        monkeypatch.setattr(command.ratios, "baseline", lambda: json.loads(file.read_text())["ratios"])
        monkeypatch.setattr(command, "_measure", lambda *_: (made_up, {}))
        monkeypatch.setattr(command, "_valkey_version", lambda: "0")
        monkeypatch.setattr(command.machine, "versions", dict)
        monkeypatch.setattr(command.wrk, "check", lambda: None)
        monkeypatch.setattr(command.results, "save", lambda *_, **__: command.machine.ROOT / "somewhere.json")
        return CliRunner().invoke(command.main, ["--quick", "--compare-baseline"], env={"COLUMNS": "120"})

    return run


def test_a_ratio_that_fell_by_26_percent_fails(gate: Any) -> None:
    """Exit status 1, and the table names what fell."""
    result = gate(0.74)
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if NAME in line and "fell" in line]


def test_a_ratio_that_fell_by_24_percent_passes(gate: Any) -> None:
    """What a busy machine may do to a ratio is no regression."""
    result = gate(0.76)
    assert result.exit_code == 0, result.output


def test_a_measure_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is kept, and the run goes on: a quarter of an hour is not thrown away."""

    def fail(_: Bench) -> dict[str, Any]:
        raise BenchError("the peer ended")

    measures = {"accept": command._Measure(fail, 1, 1), "drain": command._Measure(lambda _: {"median": {}}, 1, 1)}
    monkeypatch.setattr(command, "_MEASURES", measures)
    found = command._measure(Console(file=io.StringIO()), True, ["accept", "drain"])
    assert found == ({"drain": {"median": {}}}, {"accept": "the peer ended"})


def test_what_was_not_measured_does_not_fail() -> None:
    """A peer that is not installed, or a measure left out by --only, is shown as such."""
    (change,) = ratios.compare({}, {NAME: 1.0})
    assert change.now is None
    assert not change.fell


def test_ratios_are_of_figures_of_one_run(made_up: dict[str, Any]) -> None:
    """Ours over each peer, the larger the better; memory the other way round, because less of it is better."""
    found = ratios.of(made_up)
    assert found[NAME] == 0.8
    assert found["accept: ours / best Python peer"] == 4.0
    assert found["drain: ours / bullmq"] == 4.0
    assert found["memory: bodies / ours"] == 0.909
    assert found["growth: drain with most / least waiting"] == 0.95
    assert found["waiting: async, 100 ms, ours / slots"] == 0.99
    assert found["waiting: async, 100 ms, ours / best peer"] == 1.98
    assert "waiting: plain, 100 ms, ours / best peer" not in found


def test_targets_know_which_way_is_better(made_up: dict[str, Any]) -> None:
    """A rate is to reach its bound, a time or size to stay below; what was not measured is neither."""
    reached = {target.text: target.reached for target in ratios.targets(made_up, cores=2)}
    assert reached["accept: of bare aiohttp, AOF always"] is True
    assert reached["drain: times BullMQ"] is False
    assert reached["memory: times the bodies"] is True
    assert reached["lanes: message to the handler, p99, ms"] is None


def test_two_workers_are_judged_only_with_a_core_each(made_up: dict[str, Any]) -> None:
    """On two cores the second worker shares one with Valkey, and the target does not apply."""
    assert len(ratios.targets(made_up, cores=3)) == len(ratios.targets(made_up, cores=2)) + 1


def test_baseline_needs_a_quick_run() -> None:
    """A full run has other counts: comparing it with quick ratios is wrong usage."""
    result = CliRunner().invoke(command.main, ["--compare-baseline"])
    assert result.exit_code == 2
    assert "--quick" in result.output


def test_unknown_measure_is_named() -> None:
    """A slip in --only ends at once, with the names there are."""
    result = CliRunner().invoke(command.main, ["--only", "accept,drian"])
    assert result.exit_code == 2
    assert "'drian'" in result.output
