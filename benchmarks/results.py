"""A run's figures as a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, ratios
from benchmarks.machine import HERE, BenchError

FOLDER = HERE / "results"
LATEST = FOLDER / "latest.json"


def made(measures: dict[str, Any], quick: bool, about: dict[str, Any], skipped: dict[str, list[str]]) -> dict[str, Any]:
    """Everything about a run: where, of what, all figures, the ratios."""
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "mode": "quick" if quick else "full",
        "commit": machine.commit(),
        **about,
        "skipped": skipped,
        "ratios": ratios.of(measures),
        "measures": measures,
    }


def save(result: dict[str, Any], whole: bool) -> Path:
    """Write a run under its own name; a full run of all measures is also the latest, which README shows."""
    FOLDER.mkdir(exist_ok=True)
    name = result["when"].replace(" ", "-").replace(":", "")
    file = FOLDER / f"{name}-{result['mode']}.json"
    for each in (file, LATEST) if whole and result["mode"] == "full" else (file,):
        each.write_text(json.dumps(result, indent=1) + "\n")
    return file


def write_baseline(result: dict[str, Any]) -> None:
    kept = {name: result[name] for name in ("when", "commit", "machine", "ratios")}
    ratios.BASELINE.write_text(json.dumps(kept, indent=1) + "\n")


def read(file: Path = LATEST) -> dict[str, Any]:
    """A run that was saved."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except OSError:
        raise BenchError(f"{file} is not there; `make bench` writes it") from None
    return found
