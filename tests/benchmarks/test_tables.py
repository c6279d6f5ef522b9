"""What a run prints and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import bench, results, tables


@pytest.fixture
def result(made_up: dict[str, Any]) -> dict[str, Any]:
    """A run of made-up figures."""
    about = {"machine": {"cpu": "a processor", "cores": 2}, "versions": {"python": "3"}}
    return results.made(made_up, quick=True, about=about, skipped={"node is not installed": ["BullMQ"]})


def test_every_measure_is_printed(result: dict[str, Any]) -> None:
    """A table for each measure, the targets last; what was not measured says so."""
    out = io.StringIO()
    tables.show(Console(file=out, width=120), result)
    text = out.getvalue()
    for title in ("Accept", "Drain", "Memory", "Processes", "Latency", "Growth", "Recovery", "Waiting", "Targets"):
        assert title in text
    assert "Lanes" not in text
    assert "10,000" in text
    assert "not measured" in text


def test_a_run_is_kept_with_all_its_figures(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is named for its time and mode; a quick run does not replace the figures that README shows."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "LATEST", tmp_path / "latest.json")
    file = results.save(result, whole=True)
    assert file.name.endswith("-quick.json")
    assert json.loads(file.read_text()) == result
    assert {"when", "commit", "machine", "versions", "ratios", "measures"} <= result.keys()
    assert not results.LATEST.exists()
    results.save(result | {"mode": "full"}, whole=True)
    assert results.read(results.LATEST)["mode"] == "full"


def test_percentiles_are_of_what_was_measured() -> None:
    """Nearest rank: every percentile is one of the values, p100 the largest."""
    values = [float(n) for n in range(100, 0, -1)]
    assert [bench.percentile(values, percent) for percent in (0, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert bench.percentile([7.0], 50) == 7.0
    assert bench.spread([]) == {"count": 0}
