"""Draws docs/plots/*.svg from benchmarks/results/latest.json. Runs in benchmarks/.venv, which has matplotlib.

They are read on white and on black: no background, text in a grey between, ours in one colour that everybody can tell
from grey. The same figures give the same bytes.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker

from benchmarks.names import ACCEPT_TITLES, OURS, TITLES

matplotlib.use("svg")
from matplotlib import pyplot

HERE = Path(__file__).parent
FOLDER = HERE.parent / "docs" / "plots"

_OURS, _OTHERS, _LIMIT = "#D97706", "#7F8C9A", "#4C9BD6"
_TEXT = "#808080"
_LIMITS = ("bare_aiohttp", "limit")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wa-ingest",
    "font.size": 11,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _TEXT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def main() -> None:
    """Draw everything that the latest full run measured."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "latest.json"
    if not file.exists():
        sys.exit(f"{file} is not there; `make bench` writes it")
    draw(json.loads(file.read_text())["measures"], FOLDER)


def draw(measures: dict[str, Any], folder: Path) -> None:
    """One file for each measure that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    pyplot.rcParams.update(_STYLE)
    if "accept" in measures:
        _save(
            _bars(measures["accept"]["median"], "notifications accepted a second, 64 connections", ACCEPT_TITLES),
            folder / "accept.svg",
        )
    if "drain" in measures:
        title = "events handled a second by one worker process (logarithmic)"
        _save(_bars(measures["drain"]["median"], title, TITLES, log=True), folder / "drain.svg")
    if "latency" in measures:
        _save(_latency(measures["latency"]), folder / "latency.svg")
    if "growth" in measures:
        _save(_growth(measures["growth"]["waiting"]), folder / "growth.svg")


def _bars(rates: dict[str, float], title: str, titles: dict[str, str], log: bool = False) -> Any:
    ordered = sorted(rates.items(), key=lambda one: one[1])
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.42 * len(ordered)))
    bars = axes.barh([titles[name] for name, _ in ordered], [rate for _, rate in ordered])
    for bar, (name, rate) in zip(bars, ordered, strict=True):
        bar.set_color(_OURS if name.startswith(OURS) else _LIMIT if name in _LIMITS else _OTHERS)
        end = (rate, bar.get_y() + bar.get_height() / 2)
        axes.annotate(f"{rate:,.0f}", end, (4, 0), textcoords="offset points", va="center")
    if log:
        axes.set_xscale("log")
        axes.set_xlim(10 ** math.floor(math.log10(ordered[0][1])), ordered[-1][1] * 4)
        axes.minorticks_off()
    else:
        axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(title)
    axes.xaxis.grid(True)
    axes.set_axisbelow(True)
    return figure


def _latency(found: dict[str, Any]) -> Any:
    """Percentiles: the further right, the rarer."""
    figure, axes = pyplot.subplots(figsize=(8, 4))
    lines = (("1000", "-", "1,000/s"), ("3300", "--", "3,300/s"))
    for load, dashes, title in lines:
        for part, colour in (("ours", _OURS), ("bare_aiohttp", _LIMIT)):
            curve = found[load].get(part, {}).get("curve")
            if not curve:
                continue
            points = [(_rarity(float(percent)), value) for percent, value in curve.items() if 0 < float(percent) < 100]
            axes.plot(*zip(*points, strict=True), dashes, color=colour, label=f"{TITLES[part]}, {title}", linewidth=2)
    shown = (10, 50, 90, 99, 99.9)
    axes.set_xticks([_rarity(percent) for percent in shown], [f"p{percent:g}" for percent in shown])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_ylabel("answer after ms (AOF always)")
    axes.grid(True)
    axes.legend()
    return figure


def _rarity(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _growth(waiting: dict[str, Any]) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    sizes = sorted(map(int, waiting))
    for part, colour, mark, title in (
        ("drain", _OURS, "o-", "handled, one worker process"),
        ("accept", _LIMIT, "s--", "accepted, one receiver process"),
    ):
        rates = [waiting[str(size)][part] for size in sizes]
        axes.plot(sizes, rates, mark, color=colour, label=title, linewidth=2)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 1.1 * max(rates[part] for rates in waiting.values() for part in ("drain", "accept")))
    axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("notifications waiting")
    axes.set_ylabel("a second")
    axes.grid(True)
    axes.legend()
    return figure


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
