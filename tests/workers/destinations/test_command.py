"""`wa-ingest destinations`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from workers.cli.destinations import destinations as command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with a file."""

    def run(file: Path | None, *arguments: str) -> Result:
        if file is not None:
            monkeypatch.setenv("WA_DESTINATIONS", str(file))
        return CliRunner().invoke(command, arguments)

    return run


def test_shown(run: Any, destinations: Any) -> None:
    """Each destination is a line: its address without what may be secret in it, what it gets and how."""
    file = destinations(
        {"name": "crm", "url": "http://crm:3000/hook?token=hunter2", "types": ["text"], "secret": "s", "rate": "50/s"},
        {"name": "log", "url": "http://log/", "kinds": ["status"], "bulk": 10},
    )
    shown = run(file)
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    for part in ("crm", "message (text)", "signed, 50/s", "log", "status", "lists of 10"):
        assert part in words
    assert "hunter2" not in shown.output


def test_json(run: Any, destinations: Any) -> None:
    """With --json a program can read all of it but the secret."""
    shown = run(
        destinations({"name": "crm", "url": "http://crm/", "statuses": ["failed"], "secret": "hunter2"}), "--json"
    )
    (row,) = json.loads(shown.output)
    assert row["wants"] == {"status": ["failed"]}
    assert row["signed"] is True
    assert "hunter2" not in shown.output


def test_checked(run: Any, destinations: Any, application: Any, free_port: Any) -> None:
    """--check connects, posts nothing, and exits 1 with the reason when one is not reached."""
    app = application()
    good = run(destinations({"name": "crm", "url": app.url}), "--check")
    assert good.exit_code == 0, good.output
    assert good.output.split()[-1] == "reached"
    assert app.posts == []
    port = free_port()
    wrong = run(
        destinations({"name": "a", "url": app.url}, {"name": "b", "url": f"http://127.0.0.1:{port}/"}), "--check"
    )
    assert wrong.exit_code == 1
    assert "1 of 2 destinations cannot be reached" in wrong.output
    assert f"not reached: connection refused: 127.0.0.1:{port}\n" in wrong.output


def test_on_a_narrow_terminal(run: Any, destinations: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns an address and each list stand whole, on lines of their own."""
    monkeypatch.setenv("COLUMNS", "80")
    url = "https://integrations.customers.example.com/whatsapp/v1/webhook"
    shown = run(destinations({"name": "crm", "url": url, "types": ["text", "image"], "rate": "50/s"}))
    lines = [line.strip() for line in shown.output.splitlines()[-3:]]
    assert lines == [f"crm          {url}", "message (image, text)", "50/s, 20 at a time"]


def test_mistakes(run: Any, destinations: Any) -> None:
    """No file is one line, and so is a mistake in it; what a mistake means to workers is another."""
    assert "Error: WA_DESTINATIONS is not set: give the file of your destinations" in run(None).output
    shown = run(destinations({"name": "crm"}))
    assert shown.exit_code == 1
    assert "line 1: url is missing\nWorkers that run go on with the file as they read it" in shown.output
