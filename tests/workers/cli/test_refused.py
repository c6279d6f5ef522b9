"""What `wa-ingest status` says about refused requests."""

from __future__ import annotations

import json

from click.testing import CliRunner
from redis import Redis

from ingest.state import refusals
from workers.cli.main import main


def test_status(redis: Redis) -> None:
    """One line says how many requests were refused and why, the JSON how many of each; nothing without any."""
    run = CliRunner().invoke
    assert json.loads(run(main, ["status", "--json"]).stdout)["requests"] == {}
    assert "refused" not in run(main, ["status"]).stdout
    refusals.note(redis, {"signature": 3, "accepted": 10})
    assert json.loads(run(main, ["status", "--json"]).stdout)["requests"] == {"signature": 3, "accepted": 10}
    refusals.note(redis, {"path": 1000, "visit": 2, "no_token": 1, "size": 1})
    lines = run(main, ["status"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert "1,007 requests refused lately: path 1,000, signature 3, …; see `wa-ingest check`" in lines
    assert sum("refused" in line or "check" in line for line in lines) == 1


def test_all_are_refused(redis: Redis) -> None:
    """When nearly nothing is accepted any more, `status` says since when, and what to do; what else was refused follows
    in a line.
    """
    refusals.note(redis, {"signature": 50, "path": 2})
    shown = " ".join(CliRunner().invoke(main, ["status"]).stdout.split())
    assert "50 of the last 50 requests refused with a wrong signature, since " in shown
    assert ": Compare WA_APP_SECRET with the secret of the app that sends" in shown
    assert "2 requests refused lately: path 2; see `wa-ingest check`" in shown
