"""Prometheus' configuration and alarms, checked with its own promtool where that is installed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


class Alarm(NamedTuple):
    """An alarm of rules.yml."""

    name: str
    text: str

    @property
    def query(self) -> str:
        found = re.search(r"^        expr: (?:\|\n)?(.*?)^        (?:for|labels):", self.text, re.MULTILINE | re.DOTALL)
        assert found, self.text
        return found[1]

    @property
    def severity(self) -> str:
        (found,) = re.findall(r"^        labels: \{severity: (warning|critical)\}$", self.text, re.MULTILINE)
        return str(found)


ALARMS = [
    Alarm(text.split("\n")[0], text)
    for text in re.split(r"^      - alert: ", (FOLDER / "rules.yml").read_text(), flags=re.M)
][1:]


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool(promtool: Callable[..., None], arguments: tuple[str, ...]) -> None:
    """Prometheus takes the files; each alarm fires in its tests, and does not when it should not."""
    promtool(FOLDER, *arguments)


def test_each_alarm_has_a_test() -> None:
    """In rules_test.yml each alarm fires at least once, with each of its severities."""
    tests = (FOLDER / "rules_test.yml").read_text()
    fired = set(re.findall(r'alertname="(\w+)", severity="(\w+)"', tests))
    assert fired == {(alarm.name, alarm.severity) for alarm in ALARMS}


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: f"{alarm.name}-{alarm.severity}")
def test_an_alarm_says_what_to_do(alarm: Alarm) -> None:
    """It has a summary, a description, and the place in docs/operations.md that is named for it."""
    assert re.search(r"^          summary: \S", alarm.text, re.MULTILINE)
    assert re.search(r"^          description: \S", alarm.text, re.MULTILINE)
    assert f"          runbook: docs/operations.md#{alarm.name.lower()}\n" in alarm.text


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: f"{alarm.name}-{alarm.severity}")
def test_alarms_look_at_what_is_there(alarm: Alarm, known: Callable[[str], None]) -> None:
    """Its metrics and labels are those of a real run."""
    known(alarm.query)
