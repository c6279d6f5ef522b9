"""The dashboard: up to date with its table, and all that it asks for is there."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "dashboards" / "wa-ingest.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_file_is_up_to_date() -> None:
    """`python deploy/grafana/dashboard.py` would write the same."""
    spec = importlib.util.spec_from_file_location("dashboard", FOLDER / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == module.FILE.read_text()


def test_it_fits_its_provisioning() -> None:
    """Grafana finds the file where the provider looks, and Prometheus at the address that compose gives it."""
    provider = (FOLDER / "provisioning" / "dashboards" / "wa-ingest.yml").read_text()
    assert "path: /var/lib/grafana/dashboards" in provider
    assert "type: prometheus" in (FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_panels_can_be_read() -> None:
    """Each has a title of its own, a description, a unit and a place of its own."""
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    places: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert places.isdisjoint(taken), panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= taken
    assert all(panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


@pytest.mark.parametrize("query", QUERIES)
def test_panels_show_what_is_there(query: str, known: Callable[[str], None]) -> None:
    """Its metrics and labels are those of a real run."""
    known(query)


def test_every_query_parses(promtool: Callable[..., None], tmp_path: Path) -> None:
    """PromQL is what Prometheus takes, Grafana's own words in it replaced."""
    rules = ["groups:", "  - name: dashboard", "    rules:"]
    for n, query in enumerate(QUERIES):
        rules += [f"      - record: query:{n}", f"        expr: '{query.replace('$__rate_interval', '5m')}'"]
    assert not re.search(r"\$", "\n".join(rules))
    (tmp_path / "rules.yml").write_text("\n".join(rules))
    promtool(tmp_path, "check", "rules", "rules.yml")


def test_every_metric_is_on_the_dashboard(exposed: dict[str, Any]) -> None:
    """Nothing is counted that nobody would see."""
    shown = " ".join(QUERIES)
    assert [name for name in exposed if name not in shown] == []
